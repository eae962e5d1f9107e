"""The lock that keeps a second training out of a run folder, and what it is worth where the folder lies.

The lock is `flock` on the open folder: the kernel gives it back when the process ends, however that ends. On a network's
file system it holds on this machine alone. flock(2) says that NFS and SMB pass locks on to their servers, but they do so
for files: Linux has no such operation for their folders (nfs_dir_operations in fs/nfs/dir.c, cifs_dir_ops in
fs/smb/client/cifsfs.c, fuse_dir_operations in fs/fuse/dir.c and v9fs_dir_operations in fs/9p/vfs_dir.c name none), so
the machine's own kernel keeps the lock. Ceph's folders do have it (ceph_dir_fops in fs/ceph/dir.c).
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from time import sleep

from cuchar.errors import RunError

TRIES = 5  # a look by `is_in_use` holds a lock too, but for microseconds only, and must not stop a training
PAUSE_S = 0.02
HELD = (BlockingIOError, PermissionError)  # by another process; the latter where locks are fcntl's (fcntl(2), EACCES)
NETWORKS = ("nfs", "nfs4", "cifs", "smb3", "9p", "afs", "coda", "lustre", "beegfs", "virtiofs")  # and all of FUSE
MOUNTS = Path("/proc/self/mountinfo")  # proc(5) says what its fields are


def lock_folder(path: Path) -> tuple[int, str | None]:
    """Open and lock a folder.

    Returns:
        the folder's descriptor, which holds the lock until it is closed; and what a user must know of the lock, if it
        does not keep every other training out.
    Raises:
        RunError: another process has the lock, or the folder cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RunError(f"{path}: expected a folder to write to, found: {error.strerror}") from None
    for tries_left in reversed(range(TRIES)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except HELD:
            if tries_left:
                sleep(PAUSE_S)
        except OSError as error:
            return descriptor, (
                f"{path} is on a file system that has no locks ({error.strerror}): "
                "nothing but you keeps a second training out of it"
            )
        else:
            kind = _file_system(descriptor)
            if kind in NETWORKS or kind.startswith("fuse."):
                return descriptor, (
                    f"{path} is on {kind}, where its lock keeps out other trainings of this machine alone: "
                    "let no other machine train in it"
                )
            return descriptor, None
    os.close(descriptor)
    raise RunError(f"{path}: expected a folder nobody trains in, found another training at work")


def is_in_use(path: Path) -> bool:
    """Whether a training of this machine is at work in a run folder.

    It is False also where nobody can tell: for a folder that may not be opened, or whose file system has no locks.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # several may look at once
    except HELD:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)  # gives the lock back
    return False


def _file_system(descriptor: int) -> str:
    """The type of the file system that an open file is on, such as ext4; empty if this machine does not say."""
    device = os.fstat(descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError), MOUNTS.open() as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == number:
                return fields[fields.index("-") + 1]
    return ""
