"""The embedded engine's hands: enter namespaces, lay out a root file system, exec a program.

Stand-alone and stdlib only: `python3 -I -S .../sandbox OPTIONS -- PROGRAM ARG...` does the same
as calling `run.main`; no other module of the project is imported. Words on the command line
become a list of operations, the list is carried out in order, the process becomes the program.

How it is done, and why:
- One unprivileged user namespace maps the caller to 0. In it the root is mounted, then
  `chroot` goes there, so that every name that is made or mounted on is resolved inside the
  container: a link in an image cannot lead a mount or a mkdir to the host.
- A second user and mount namespace follows. It maps 0 to the wanted uid, and it locks every
  mount made so far: the container's root cannot take away what was put over the image.
- What the container sees of the host is opened before its root is mounted, as a detached
  copy of the mounts there (open_tree), so that a bound directory which holds the store does
  not show the container in itself. Kernels before 5.2 bind through /proc/self/fd instead.

Source: user_namespaces(7), mount_namespaces(7), pivot_root(2), mount_setattr(2), seccomp(2);
Documentation/filesystems/overlayfs.rst.
"""
