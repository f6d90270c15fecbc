//! The collector's own clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, unix nanoseconds; 0 before 1970.
pub(crate) fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}
