//! Admission control of streams, per address and in total. A stream holds a file descriptor for as
//! long as its client likes, so streams are shed long before polls would be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use platform::limits::subscriber;
use platform::problem::{Kind, Problem};
use platform::service::raise_open_files;
use platform::sync::MutexExt as _;

/// Assumed limit of open files when the system reports none.
const USUAL_FILES: u32 = 1_024;
/// `Retry-After` of a refused stream.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// The open streams of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Streams(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    per_address: u32,
    most: u32,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: u32,
    /// Addresses without streams are absent.
    by_owner: HashMap<IpAddr, u32>,
}

impl Streams {
    /// Allows `per_address` streams of each address and `most` in all, by default half of the files
    /// that the process may open.
    pub(crate) fn new(per_address: u32, most: Option<u32>) -> Self {
        Self(Arc::new(Inner {
            per_address,
            most: most.unwrap_or_else(|| file_limit() / 2),
            open: Mutex::default(),
        }))
    }

    /// Counts a stream of `address` until the returned guard is dropped.
    ///
    /// # Errors
    /// `overloaded` when too many are open.
    pub(crate) fn open(&self, address: IpAddr) -> Result<Stream, Problem> {
        let owner = subscriber(address);
        let mut open = self.0.lock();
        let own = open.by_owner.get(&owner).copied().unwrap_or(0);
        if open.all >= self.0.most || own >= self.0.per_address {
            metrics::counter!("waiting_room_streams_refused_total").increment(1);
            return Err(Problem::new(
                Kind::Overloaded,
                "Too many streams are open; poll the snapshot instead, or try again later.",
            )
            .retry_after(RETRY_AFTER));
        }
        open.all += 1;
        open.by_owner.insert(owner, own + 1);
        drop(open);
        metrics::gauge!("waiting_room_streams").increment(1.0);
        Ok(Stream {
            streams: Arc::clone(&self.0),
            owner,
        })
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock_unpoisoned()
    }
}

/// Guard of an open stream, which it uncounts on drop.
#[derive(Debug)]
pub(crate) struct Stream {
    streams: Arc<Inner>,
    owner: IpAddr,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        open.all = open.all.saturating_sub(1);
        match open.by_owner.get_mut(&self.owner) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                open.by_owner.remove(&self.owner);
            }
        }
        drop(open);
        metrics::gauge!("waiting_room_streams").decrement(1.0);
    }
}

/// Raises and returns the process's limit of open files.
fn file_limit() -> u32 {
    raise_open_files().map_or(USUAL_FILES, |files| {
        u32::try_from(files).unwrap_or(u32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_and_all_together_no_more_than_fit() {
        let streams = Streams::new(2, Some(3));
        let open = |text: &str| streams.open(address(text));
        let first = open("192.0.2.1").unwrap();
        let _second = open("::ffff:192.0.2.1").unwrap();
        assert!(open("192.0.2.1").is_err());
        let _other = open("2001:db8::1").unwrap();
        assert!(open("2001:db8:0:1::1").is_err(), "all are taken");
        drop(first);
        let _of_a_neighbour = open("2001:db8::2").unwrap();
        assert!(open("192.0.2.1").is_err());
    }

    #[test]
    fn an_address_without_streams_takes_no_memory() {
        let streams = Streams::new(2, Some(3));
        drop(streams.open(address("192.0.2.1")).unwrap());
        assert!(streams.0.lock().by_owner.is_empty());
        assert_eq!(streams.0.lock().all, 0);
    }
}
