//! Faults that pass: something is used up that others will give back, and nothing was changed.

use rustix::io::Errno;
use std::error::Error;
use std::fmt;
use std::io;

/// What is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Room where the log is kept, or what a quota leaves of it.
    Space,
    /// Files that the process, or the machine, may have open.
    Files,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Space => "no space is left where the log is kept",
            Self::Files => "too many files are open",
        })
    }
}

impl Lack {
    /// What an error, or one of its causes, says is used up.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let io = error.downcast_ref::<io::Error>();
        // An I/O error passes its own cause over in `source`.
        let within = || io.and_then(|io| io.get_ref()).and_then(|cause| Self::of(cause));
        io.and_then(of_io).or_else(within).or_else(|| error.source().and_then(Self::of))
    }
}

fn of_io(error: &io::Error) -> Option<Lack> {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(Lack::Space),
        _ => match Errno::from_io_error(error)? {
            Errno::MFILE | Errno::NFILE => Some(Lack::Files),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_however_deep_tells_what_is_used_up() {
        let of = |errno: Errno| {
            let source = Box::new(io::Error::other(io::Error::from(errno)));
            Lack::of(&object_store::Error::Generic { store: "local", source })
        };
        for (errno, lack) in [
            (Errno::NOSPC, Some(Lack::Space)),
            (Errno::DQUOT, Some(Lack::Space)),
            (Errno::MFILE, Some(Lack::Files)),
            (Errno::NFILE, Some(Lack::Files)),
            (Errno::IO, None),
            (Errno::ROFS, None),
        ] {
            assert_eq!(of(errno), lack, "{errno}");
        }
    }
}
