"""Every option of `run` and `create` that does something, by subject, in the order of the help.

What is accepted without effect is in `accepted`, what is refused in `refused`: they are
imported for who writes them.
"""

from __future__ import annotations

from udocker.commands.words import FLAG, OPTIONAL, VALUE, Option

CONTAINER = (
    Option(("--name",), VALUE, "Name the container.", "NAME"),
    Option(("--rm",), FLAG, "Remove the container when its program ends."),
    Option(("--replace",), FLAG, "Remove the container that has the name already."),
    Option(("-d", "--detach"), FLAG, "Run in the background and print the container's id."),
    Option(("--cidfile",), VALUE, "Write the container's id into a new file.", "FILE"),
    Option(("--pidfile",), VALUE, "Write the program's process id into a file.", "FILE"),
    Option(("-l", "--label"), VALUE, "Attach a label; `ps --filter` finds it.", "NAME[=VALUE]"),
    Option(("--label-file",), VALUE, "Attach the labels that a file lists.", "FILE"),
    Option(("--annotation",), VALUE, "Attach a note that nothing looks at.", "NAME=VALUE"),
    Option(("--stop-signal",), VALUE, "What `stop` sends, in place of the image's.", "SIGNAL"),
    Option(("--stop-timeout",), VALUE, "How long `stop` waits before it kills.", "SECONDS"),
    Option(("--timeout",), VALUE, "Kill the program when it runs longer.", "SECONDS"),
    Option(("--sig-proxy",), FLAG, "=false: signals sent to udocker do not reach the program."),
    Option(("--log-driver",), VALUE, "Log of a detached run.", "json-file|none"),
    Option(("--dry-run",), FLAG, "Show the command that would run, and run nothing."),
    Option(("--strict",), FLAG, "An option that would have no effect is an error."),
)
IMAGE = (
    Option(
        ("--pull",),
        VALUE,
        "When to ask the registry; reuse: run the container that --name names, if there is one.",
        "missing|always|newer|never|reuse",
    ),
    Option(("--platform",), VALUE, "Platform of the image to pull.", "OS/ARCH[/VARIANT]"),
    Option(("--arch",), VALUE, "The same, its architecture alone.", "ARCH"),
    Option(("--os",), VALUE, "The same, its system alone.", "OS"),
    Option(("--variant",), VALUE, "The same, the variant of the architecture alone.", "VARIANT"),
    Option(("--registry",), VALUE, "Where a name without a host is looked up.", "HOST"),
    Option(("--index",), VALUE, "The same as --registry.", "HOST"),
    Option(("--httpproxy",), VALUE, "Proxy for the pull.", "URL"),
    Option(("--authfile",), VALUE, "File with credentials for the pull.", "FILE"),
    Option(("--tls-verify",), FLAG, "=false: pull by http, or https without certificates."),
    Option(("-q", "--quiet"), FLAG, "Say nothing while pulling."),
    Option(
        ("--location",),
        VALUE,
        "No image: run the program in this directory of the host as root file system.",
        "DIR",
    ),
    Option(("--rootfs",), FLAG, "The same, with DIR in place of the image (as podman)."),
    Option(("--nometa",), FLAG, "Ignore what the image says on program, environment, user."),
)
PROGRAM = (
    Option(
        ("-e", "--env"),
        VALUE,
        "Set a variable; NAME alone takes the caller's value, NAME* those that begin so.",
        "NAME[=VALUE]",
    ),
    Option(("--env-file",), VALUE, "Set the variables that a file lists.", "FILE"),
    Option(("--hostenv", "--env-host"), FLAG, "Pass the whole environment."),
    Option(("--unsetenv",), VALUE, "Leave out a variable of the image or the job.", "NAME"),
    Option(("--unsetenv-all",), FLAG, "Leave out all of them but PATH: only --env counts."),
    Option(("--http-proxy",), FLAG, "=false: do not pass the variables that name proxies."),
    Option(("-w", "--workdir"), VALUE, "Directory that the program starts in.", "DIR"),
    Option(("--entrypoint",), VALUE, "Program that replaces the image's; empty: none.", "PROGRAM"),
    Option(("-i", "--interactive"), FLAG, "Keep standard input open for a detached run."),
    Option(("-t", "--tty"), FLAG, "Give a detached run a terminal; others have the caller's."),
    Option(("-a", "--attach"), VALUE, "Accepted; all streams are always the caller's.", "STREAM"),
    Option(("--umask",), VALUE, "Permissions that new files lack, octal.", "MODE"),
    Option(("--tz",), VALUE, "Time zone; local: the host's.", "AREA/CITY|local"),
)
USER = (
    Option(("-u", "--user"), VALUE, "Who the program believes to be.", "NAME|UID[:GROUP|GID]"),
    Option(
        ("--userns",),
        VALUE,
        "keep-id: the program sees the caller's own uid; auto: the ids of /etc/subuid are there "
        "too; host: as without.",
        "keep-id|auto|host",
    ),
    Option(("--hostauth",), FLAG, "The host's accounts show, and the caller's own uid."),
    Option(("--containerauth",), FLAG, "The image's accounts stay as they are."),
    Option(("--group-add",), VALUE, "The caller's groups are always kept.", "keep-groups|GROUP"),
    Option(("--passwd",), FLAG, "=false: the same as --containerauth."),
    Option(
        ("--passwd-entry",),
        VALUE,
        "Line for passwd where the image has none for the user; $USERNAME $UID $GID $NAME $HOME.",
        "LINE",
    ),
)
FILES = (
    Option(
        ("-v", "--volume"),
        VALUE,
        "Show a host path; NAME is a directory that udocker keeps for all containers; SRC alone "
        "shows at its own path.",
        "SRC|NAME[:DST[:ro]]",
    ),
    Option(
        ("--mount",),
        VALUE,
        "The same, or memory, in docker's long form.",
        "type=bind|volume|tmpfs,src=,dst=[,ro]",
    ),
    Option(("--volumes-from",), VALUE, "Show what another container shows.", "CONTAINER[:ro]"),
    Option(("--novol",), VALUE, "Leave out what would show at a path.", "DST"),
    Option(("--bindhome",), FLAG, "Show the home directory at its own path."),
    Option(("--tmpfs",), VALUE, "Put an empty directory in memory there.", "DIR[:OPTIONS]"),
    Option(
        ("--shm-size",), VALUE, "A /dev/shm of its own; else it is the host's.", "SIZE[b|k|m|g]"
    ),
    Option(("--read-only",), FLAG, "Let the program change nothing but mounts."),
    Option(("--read-only-tmpfs",), FLAG, "With --read-only: /run, /tmp, /var/tmp in memory."),
    Option(
        ("--device",),
        VALUE,
        "Show a device node of the host, with the caller's rights to it; or what a CDI "
        "specification of this node describes by that name.",
        "SRC[:DST]|VENDOR/CLASS=NAME",
    ),
    Option(
        ("--cdi-dir", "--cdi-spec-dir"),
        VALUE,
        "Look for CDI specifications here too, before /etc/cdi and the others.",
        "DIR",
    ),
    Option(("--cdi-ignore-hooks",), FLAG, "Leave out hooks of CDI specifications not known here."),
    Option(("--secret",), VALUE, "Show a file read-only in /run/secrets.", "FILE|id=NAME,src=FILE"),
    Option(("--dri",), FLAG, "Show the host's libraries of direct rendering."),
    Option(("--nosysdirs",), FLAG, "Show none of the host's /dev, /sys and files of names."),
)
NETWORK = (
    Option(
        ("--network", "--net"),
        VALUE,
        "host (the default), or none: only the loopback.",
        "host|none",
    ),
    Option(("--hostname", "-h"), VALUE, "Host name in the container.", "NAME"),
    Option(("--domainname",), VALUE, "Domain of the host name, in /etc/hosts.", "DOMAIN"),
    Option(("--add-host",), VALUE, "Add a line to /etc/hosts.", "NAME:ADDRESS|NAME:host-gateway"),
    Option(("--no-hosts",), FLAG, "Keep the image's /etc/hosts."),
    Option(("--dns",), VALUE, "Name server, in place of the host's.", "ADDRESS"),
    Option(("--dns-search",), VALUE, "Domain to look names up in; `.`: none.", "DOMAIN"),
    Option(("--dns-option", "--dns-opt"), VALUE, "Option of resolv.conf.", "OPTION"),
    Option(
        ("-p", "--publish"),
        VALUE,
        "With --network none: a port of the host leads to the container's; else all are.",
        "[[IP:]PORT:]PORT[/udp]",
    ),
    Option(
        ("-P", "--publish-all", "--netcoop"), FLAG, "The same for all ports that the image exposes."
    ),
    Option(("--expose",), VALUE, "Add a port to those that the image exposes.", "PORT[/udp]"),
)
GPUS = (
    Option(
        ("--gpu",),
        OPTIONAL,
        "Use the node's GPUs: all (alone), auto (if the image asks), try (if there are any), none, "
        "or a list of numbers, N:M for MIG devices, UUIDs, PCI addresses.",
        "SEL",
        default="all",
    ),
    Option(("--gpus",), VALUE, "The same in docker's syntax: all, N, device=0,1.", "SEL"),
    Option(("--nv", "--nvidia"), FLAG, "The same as --gpu."),
    Option(
        ("--rocm",),
        OPTIONAL,
        "The same for AMD's GPUs, for which the image must have ROCm.",
        "SEL",
        default="all",
    ),
    Option(
        ("--gpu-caps",), VALUE, "Driver capabilities: compute,utility,video,graphics,...", "LIST"
    ),
    Option(("--gpu-strict",), FLAG, "What the image requires of GPU and driver must be met."),
    Option(
        ("--cuda-compat",),
        VALUE,
        "The image's newer CUDA driver library: auto (if it works here), off, force.",
        "auto|off|force",
    ),
)
RUNNING = (
    Option(("--engine", "--execmode"), VALUE, "Engine or execution mode to run with.", "NAME|MODE"),
    Option(("--runtime",), VALUE, "The same, in docker's word; nvidia: --gpu=auto.", "NAME"),
    Option(("--force",), FLAG, "Run also a program that the engine cannot contain."),
    Option(("--kernel",), VALUE, "Kernel release that the program is told.", "RELEASE"),
    Option(
        ("--pid",),
        VALUE,
        "private: a process namespace of its own, which CUDA IPC and MPI cannot cross.",
        "host|private",
    ),
    Option(("--init",), FLAG, "The same, with an init that reaps and passes signals on."),
    Option(("--ipc",), VALUE, "The host's, always.", "host"),
    Option(("--uts",), VALUE, "host; --hostname gives a name of its own.", "host|private"),
    Option(("--cgroupns",), VALUE, "The host's, always.", "host"),
    Option(
        ("--ulimit",),
        VALUE,
        "A limit, at most the caller's own; -1: unlimited.",
        "NAME=SOFT[:HARD]",
    ),
    Option(("--cpuset-cpus",), VALUE, "Processors to run on, of those of the job.", "0-3,5"),
)
GROUPS = (
    ("Container", CONTAINER),
    ("Image", IMAGE),
    ("Program", PROGRAM),
    ("User", USER),
    ("Files", FILES),
    ("Network", NETWORK),
    ("GPUs", GPUS),
    ("Way of running", RUNNING),
)
OPTIONS = tuple(option for _, options in GROUPS for option in options)
SUBJECTS = {option.key: subject for subject, options in GROUPS for option in options}
"""Which subject the key of an option belongs to."""
