//! How the process ends. A unit of systemd lists what a restart does not mend in `RestartPreventExitStatus=`: 2 65 74 78.

/// Something failed; a restart may help.
pub const FAILED: u8 = 1;
/// The command line or a setting is wrong.
pub const USAGE: u8 = 2;
/// A client command: the stream, or whatever was named, is not there.
pub const NOT_FOUND: u8 = 3;
/// A client command: in conflict with the state that was found.
pub const CONFLICT: u8 = 4;
/// A client command: no answer, or the server cannot serve now.
pub const UNAVAILABLE: u8 = 5;
/// The data directory is damaged, is not this node's, or was written by a newer version (EX_DATAERR). A restart would
/// find the same.
pub const DAMAGED: u8 = 65;
/// A write or sync of the log failed (EX_IOERR): nobody knows what is on disk, and a restart would hide that.
pub const DISK_FAILED: u8 = 74;
/// The settings do not fit this machine or this data directory (EX_CONFIG): io_uring denied, too little locked memory,
/// another node's directory.
pub const MISFIT: u8 = 78;
