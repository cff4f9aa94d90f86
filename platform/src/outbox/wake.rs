use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use tokio::sync::watch;

use crate::sync::MutexExt as _;

/// One counter per owner for the whole process: whoever commits need not know the relay.
static WAKERS: LazyLock<Mutex<HashMap<&'static str, watch::Sender<u64>>>> =
    LazyLock::new(Mutex::default);

/// Tells the relays of `owner` in this process that a message was committed. Without it they find
/// it by themselves a little later.
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
