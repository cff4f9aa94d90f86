//! What this process wants to exist in RabbitMQ, and what it knows to exist: a broker that comes
//! back empty is declared everything again, and so is one whose exchanges or queues were deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::BrokerError;
use super::link::{self, Link};
use super::topology::{self, QueueSpec};

/// A message for nobody may be its sender's fault: what is declared is then forgotten at most this
/// often.
const FORGETTING_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Declared {
    namespace: String,
    link: Arc<Link>,
    wanted: Mutex<BTreeMap<String, QueueSpec>>,
    /// The connection on which everything wanted was declared; 0 for none.
    current: AtomicU64,
    /// Something that was declared turned out to be missing.
    is_stale: AtomicBool,
    /// Held while declaring, so that it is done once.
    known: tokio::sync::Mutex<Known>,
    forgotten: Mutex<Option<Instant>>,
    /// Queues that exist with other arguments than wanted.
    mismatched: Mutex<BTreeSet<String>>,
}

#[derive(Default)]
struct Known {
    connection: u64,
    queues: BTreeSet<String>,
}

impl Declared {
    pub(super) fn new(namespace: &str, link: Arc<Link>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            link,
            wanted: Mutex::default(),
            current: AtomicU64::new(0),
            is_stale: AtomicBool::new(false),
            known: tokio::sync::Mutex::default(),
            forgotten: Mutex::default(),
            mismatched: Mutex::default(),
        }
    }

    /// Adds a durable queue to what is wanted.
    pub(super) fn want(&self, spec: &QueueSpec) {
        let mut wanted = lock(&self.wanted);
        if wanted.insert(spec.name.clone(), spec.clone()).is_none() {
            self.current.store(0, Ordering::Release);
        }
    }

    /// The names of the queues that are wanted.
    pub(super) fn names(&self) -> BTreeSet<String> {
        lock(&self.wanted).keys().cloned().collect()
    }

    /// The queues that exist with other arguments than wanted.
    pub(super) fn mismatched(&self) -> BTreeSet<String> {
        lock(&self.mismatched).clone()
    }

    /// Declares what is wanted, unless that was done on the connection that stands.
    pub(super) async fn ensure(&self) -> Result<(), BrokerError> {
        let connection = self.link.up().await?;
        if self.current.load(Ordering::Acquire) == connection && !self.is_stale() {
            return Ok(());
        }
        let mut known = self.known.lock().await;
        if self.is_stale.swap(false, Ordering::AcqRel) || known.connection != connection {
            *known = Known::default();
            let channel = self.link.channel().await?;
            topology::declare_shared(&channel, &self.namespace).await?;
            link::close(&channel).await;
            known.connection = connection;
        }
        let wanted = lock(&self.wanted).clone();
        for (name, spec) in &wanted {
            if !known.queues.contains(name) {
                self.declare(spec).await?;
                known.queues.insert(name.clone());
            }
        }
        // What was added meanwhile is declared by the next call.
        if lock(&self.wanted).len() == wanted.len() {
            self.current.store(connection, Ordering::Release);
        }
        Ok(())
    }

    async fn declare(&self, spec: &QueueSpec) -> Result<(), BrokerError> {
        let channel = self.link.channel().await?;
        let declared = topology::declare_durable(&channel, &self.namespace, spec).await;
        match declared {
            Ok(_) => {
                lock(&self.mismatched).remove(&spec.name);
                link::close(&channel).await;
                Ok(())
            }
            // The queue works, though not as this version would have it.
            Err(error @ BrokerError::Mismatch { .. }) => {
                if lock(&self.mismatched).insert(spec.name.clone()) {
                    tracing::error!(error = &error as &dyn std::error::Error, "queue mismatch");
                }
                let channel = self.link.channel().await?;
                topology::bind_all(&channel, &self.namespace, spec).await?;
                link::close(&channel).await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether something that was declared turned out to be missing.
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Acquire)
    }

    /// Has everything declared again before the next use.
    pub(super) fn forget(&self) {
        self.is_stale.store(true, Ordering::Release);
    }

    /// [`forget`](Self::forget), if that was not done a moment ago.
    pub(super) fn suspect(&self) {
        let mut forgotten = lock(&self.forgotten);
        if forgotten.is_none_or(|at| at.elapsed() >= FORGETTING_PAUSE) {
            *forgotten = Some(Instant::now());
            self.forget();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
