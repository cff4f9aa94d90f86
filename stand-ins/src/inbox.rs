//! Messages received by a stand-in, for tests and audits.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// A message with one or more recipients.
pub trait Addressed {
    /// Returns whether `address` is a recipient.
    fn is_to(&self, address: &str) -> bool;

    /// Approximate memory use, in bytes.
    fn size(&self) -> usize;
}

/// Received messages in order of arrival. Messages beyond the limit are refused; none is evicted.
///
/// Clones share the inbox.
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

/// Capacity of an inbox.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Maximum number of messages.
    pub messages: usize,
    /// Maximum size of all messages together, in bytes.
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

/// The inbox is at capacity.
#[derive(Debug, thiserror::Error)]
#[error("the inbox is full")]
pub struct Full;

/// A wait for messages timed out.
#[derive(Debug, thiserror::Error)]
#[error("{received} of {awaited} messages came in time")]
pub struct TooFew {
    /// Number received.
    pub received: usize,
    /// Number awaited.
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

    /// Stores a message and returns its number, counted from 1.
    pub(crate) fn store(&self, message: Arc<M>) -> Result<usize, Full> {
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

    /// Returns every message, oldest first.
    pub fn all(&self) -> Vec<Arc<M>> {
        self.lock().messages.clone()
    }

    /// Returns the messages to `address`, oldest first.
    pub fn to(&self, address: &str) -> Vec<Arc<M>> {
        self.lock()
            .messages
            .iter()
            .filter(|message| message.is_to(address))
            .cloned()
            .collect()
    }

    /// Returns the message with this number, counted from 1.
    pub fn get(&self, number: usize) -> Option<Arc<M>> {
        self.lock().messages.get(number.checked_sub(1)?).cloned()
    }

    /// Returns the number of messages.
    pub fn len(&self) -> usize {
        self.lock().messages.len()
    }

    /// Returns whether no message has arrived.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits for at least `awaited` messages and returns all.
    ///
    /// # Errors
    /// [`TooFew`] when they do not arrive within `patience`.
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

    /// Waits until `enough` holds for the messages and returns them; `None` after `patience`.
    pub async fn wait_until(
        &self,
        patience: Duration,
        enough: impl Fn(&[Arc<M>]) -> bool,
    ) -> Option<Vec<Arc<M>>> {
        let deadline = Instant::now() + patience;
        loop {
            // Registered before the check, so that an arrival in between is not missed.
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
