"""Every error that Lacuna raises on purpose.

::

    LacunaError
    ├── InputError              what the caller gave cannot be used
    │   ├── OptionError         an argument or option: wrong, or at odds with another
    │   ├── ConfigError         a configuration file
    │   ├── FormatError         a file that is broken, or not what its name says
    │   ├── GridError           a voxel grid: shape, affine, orientation
    │   ├── SpaceError          template spaces: unknown, unstated, or not the same
    │   ├── LesionError         a lesion mask that is no lesion mask
    │   └── DatasetError        a folder of lesions, or an output folder
    ├── CacheError              where files live, or what is kept there
    │   ├── CacheDirError       a cache or scratch directory (also an OSError)
    │   ├── CacheFullError      no space, quota or inodes left (also an OSError)
    │   └── CacheEntryError     an entry that cannot be built, or that is damaged
    ├── UnfinishedError         a lesion that was not begun, or whose process ended
    └── NetworkError            what is fetched from elsewhere
        ├── FetchError          no address gave the file, or none is known
        ├── ChecksumError       a file is not the one that was asked for
        └── OfflineError        the network is not to be used

The first branch says whose turn it is: the caller's, that of whoever looks after the disk, or the
network's.
A message says what happened, with values, and what to do. Every error survives pickling, so that
it crosses process boundaries whole.
"""


class LacunaError(Exception):
    """Base of every error that Lacuna raises on purpose."""


class InputError(LacunaError, ValueError):
    """What the caller gave cannot be used."""


class OptionError(InputError):
    """An argument or option is wrong, or at odds with another."""


class ConfigError(InputError):
    """A configuration file cannot be used."""


class FormatError(InputError):
    """A file is broken, or not what its name says."""


class GridError(InputError):
    """A voxel grid cannot be used."""


class SpaceError(InputError):
    """Template spaces are unknown, unstated, or not the same."""


class LesionError(InputError):
    """A lesion mask cannot be used as one."""


class DatasetError(InputError):
    """A folder of lesions, or an output folder, cannot be used."""


class CacheError(LacunaError):
    """The cache cannot do what was asked."""


class CacheDirError(CacheError, OSError):
    """A cache or scratch directory cannot be used.

    Built like any ``OSError``: ``CacheDirError(errno, message, path)``.
    """

    def __str__(self) -> str:
        """Return the message alone: it already names the directory."""
        return str(self.strerror) if self.strerror else super().__str__()


class CacheFullError(CacheDirError):
    """The disk, the quota or the inodes are used up."""

    need_bytes: int | None = None
    """What would have to be free, if that was known before it was written."""


class CacheEntryError(CacheError):
    """An entry cannot be built, or is damaged where it cannot be mended."""


class UnfinishedError(LacunaError):
    """A lesion was not begun, or the process that worked on it ended."""


class NetworkError(LacunaError):
    """What is kept elsewhere cannot be had."""


class FetchError(NetworkError):
    """No address gave the file, or none is known."""


class ChecksumError(NetworkError):
    """A file is not the one that was asked for."""


class OfflineError(NetworkError):
    """The network is needed, and not to be used."""
