"""The batch job around us: what of its environment a container needs, and how it counts ranks.

Source: srun(1) and sbatch(1) "OUTPUT ENVIRONMENT VARIABLES"; PMIx standard 4.1 section 3.4;
the environment of Open MPI, MPICH, UCX, libfabric and NCCL.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEDULER = ("SLURM_", "SLURMD_", "PBS_", "LSB_", "LSF_", "SGE_", "OAR_", "COBALT_", "FLUX_")
PMI = ("PMI_", "PMI2_", "PMIX_", "PALS_", "PRTE_", "ORTE_", "HYDRA_", "HYDI_")
MPI = ("MPI_", "OMPI_", "OPAL_", "MPICH_", "I_MPI_", "MV2_", "PSM2_", "PSM3_")
FABRIC = ("UCX_", "UCC_", "FI_", "MLX5_", "IBV_", "RDMAV_", "SLINGSHOT_")
COLLECTIVES = ("NCCL_", "RCCL_", "NVSHMEM_", "SHARP_", "HCOLL_")
DEVICES = ("CUDA_", "GPU_", "ROCR_", "HIP_", "HSA_", "ZE_", "SYCL_", "ONEAPI_DEVICE_SELECTOR")
THREADS = ("OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_", "TF_NUM_")
PREFIXES = SCHEDULER + PMI + MPI + FABRIC + COLLECTIVES + DEVICES + THREADS
"""Variables whose names begin so pass into a container; the job's value beats the image's."""

LOCALE = ("LANG", "LANGUAGE", "TZ")
TERMINAL = ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
PROXY = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
JOB = ("JOB_ID", "JOB_NAME", "TASK_ID", "NSLOTS", "NHOSTS", "ARRAY_ID")
CONVENIENCES = LOCALE + TERMINAL + PROXY + tuple(map(str.upper, PROXY)) + JOB
"""Variables that pass into a container, with all LC_*, unless the image sets them."""

_NOT_PASSED = ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_VERSION", "MKL_ROOT", "MPI_HOME")
"""Where things lie on the host means nothing, or something wrong, in a container."""


def passed_over(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that pass and beat what the image says."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(PREFIXES) and name not in _NOT_PASSED
    }


def passed_under(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that pass where the image says nothing."""
    return {
        name: value
        for name, value in environment.items()
        if name in CONVENIENCES or name.startswith("LC_")
    }


def is_parallel_step(environment: Mapping[str, str]) -> bool:
    """Tell whether this process is one rank of a parallel program, or a step that may have some.

    PMIx compares the uid that a rank claims with the one that the kernel reports: a rank that
    believes to be root is refused ("OPAL ERROR: Unreachable"), so it must keep its own uid.
    """
    ranks = ("PMIX_RANK", "PMI_RANK", "PMI_FD", "OMPI_COMM_WORLD_RANK", "PALS_RANKID")
    steps = ("SLURM_STEP_ID", "SLURM_STEPID", "PALS_APID")
    return any(name in environment for name in ranks + steps)
