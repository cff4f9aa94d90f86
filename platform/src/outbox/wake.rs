use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use tokio::sync::watch;

use crate::sync::MutexExt as _;

/// One counter per owner and process, so that writers need no handle of the relay.
static WAKERS: LazyLock<Mutex<HashMap<&'static str, watch::Sender<u64>>>> =
    LazyLock::new(Mutex::default);

/// Wakes the relays of `owner` in this process after a commit. Otherwise they find the message at
/// their next poll.
pub fn wake(owner: &'static str) {
    with_waker(owner, |waker| {
        waker.send_modify(|count| *count = count.wrapping_add(1));
    });
}

pub(super) fn subscribe(owner: &'static str) -> watch::Receiver<u64> {
    with_waker(owner, watch::Sender::subscribe)
}

fn with_waker<T>(owner: &'static str, act: impl FnOnce(&watch::Sender<u64>) -> T) -> T {
    let mut wakers = WAKERS.lock_unpoisoned();
    act(wakers.entry(owner).or_default())
}
