//! What a stand-in has received, for tests and audits to read.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Something with one or more addressees.
pub trait Addressed {
    /// Whether it was sent to `address`.
    fn is_to(&self, address: &str) -> bool;

    /// The memory it takes, in bytes, roughly.
    fn size(&self) -> usize;
}

/// Received messages in the order of arrival. It refuses what does not fit; it forgets nothing.
///
/// Clones are handles of the same inbox.
#[derive(Debug)]
pub struct Inbox<M>(Arc<Inner<M>>);

impl<M> Clone for Inbox<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Inner<M> {
    state: Mutex<State<M>>,
    arrived: Notify,
    limit: Limit,
}

#[derive(Debug)]
struct State<M> {
    messages: Vec<Arc<M>>,
    bytes: usize,
}

/// How much an inbox keeps.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Messages.
    pub messages: usize,
    /// Bytes of all messages together.
    pub bytes: usize,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            messages: 100_000,
            bytes: 1 << 30,
        }
    }
}

/// The inbox has no room for another message.
#[derive(Debug, thiserror::Error)]
#[error("the inbox is full")]
pub struct Full;

/// Fewer messages than awaited came in time.
#[derive(Debug, thiserror::Error)]
#[error("{received} of {awaited} messages came in time")]
pub struct TooFew {
    /// How many came.
    pub received: usize,
    /// How many were awaited.
    pub awaited: usize,
}

impl<M: Addressed> Inbox<M> {
    pub(crate) fn new(limit: Limit) -> Self {
        let state = State {
            messages: Vec::new(),
            bytes: 0,
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            arrived: Notify::new(),
            limit,
        }))
    }

    /// Keeps a message and returns its number, counted from 1.
    pub(crate) fn keep(&self, message: Arc<M>) -> Result<usize, Full> {
        let mut state = self.lock();
        let bytes = state.bytes + message.size();
        if state.messages.len() >= self.0.limit.messages || bytes > self.0.limit.bytes {
            return Err(Full);
        }
        state.bytes = bytes;
        state.messages.push(message);
        let number = state.messages.len();
        drop(state);
        self.0.arrived.notify_waiters();
        Ok(number)
    }

    /// Every message, oldest first.
    pub fn all(&self) -> Vec<Arc<M>> {
        self.lock().messages.clone()
    }

    /// Every message to `address`, oldest first.
    pub fn to(&self, address: &str) -> Vec<Arc<M>> {
        self.lock()
            .messages
            .iter()
            .filter(|message| message.is_to(address))
            .cloned()
            .collect()
    }

    /// The message with this number, counted from 1.
    pub fn get(&self, number: usize) -> Option<Arc<M>> {
        self.lock().messages.get(number.checked_sub(1)?).cloned()
    }

    /// How many messages are there.
    pub fn len(&self) -> usize {
        self.lock().messages.len()
    }

    /// Whether nothing has come yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until at least `awaited` messages are there and returns them all.
    ///
    /// # Errors
    /// [`TooFew`] when they do not come within `patience`.
    pub async fn wait_for(
        &self,
        awaited: usize,
        patience: Duration,
    ) -> Result<Vec<Arc<M>>, TooFew> {
        self.wait_until(patience, |messages| messages.len() >= awaited)
            .await
            .ok_or_else(|| TooFew {
                received: self.len(),
                awaited,
            })
    }

    /// Waits until `enough` holds of all messages and returns them; `None` if it does not within
    /// `patience`.
    pub async fn wait_until(
        &self,
        patience: Duration,
        enough: impl Fn(&[Arc<M>]) -> bool,
    ) -> Option<Vec<Arc<M>>> {
        let deadline = Instant::now() + patience;
        loop {
            // Registered before looking, so that an arrival in between is not missed.
            let arrival = self.0.arrived.notified();
            let messages = self.all();
            if enough(&messages) {
                return Some(messages);
            }
            timeout_at(deadline, arrival).await.ok()?;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<M>> {
        self.0
            .state
            .lock()
            .expect("nothing panics while the inbox is locked")
    }
}
