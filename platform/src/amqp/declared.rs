//! Desired state of the broker, and how much of it is known to exist. Everything is declared again
//! on a new connection, since the broker may have come back empty, and whenever an exchange or a
//! queue turned out to be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lapin::Channel;
use lapin::types::FieldTable;

use super::error::BrokerError;
use super::link::{self, Link};
use super::topology::{self, QueueNames, QueueSpec};
use crate::sync::MutexExt as _;

/// Shortest time between two repetitions that are only suspected to be necessary: an unroutable
/// message may also be its sender's mistake.
const SUSPICION_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Declared {
    namespace: String,
    link: Arc<Link>,
    wanted: Mutex<BTreeMap<String, QueueSpec>>,
    /// The connection on which everything wanted was declared; 0 for none.
    current: AtomicU64,
    /// Something that was declared turned out to be missing.
    is_stale: AtomicBool,
    /// Locked while declaring: single-flight.
    known: tokio::sync::Mutex<Known>,
    suspected: Mutex<Option<Instant>>,
    /// Queues that exist with other arguments than wanted, by their names within the namespace.
    mismatched: Mutex<BTreeSet<String>>,
}

#[derive(Default)]
struct Known {
    connection: u64,
    /// The sets of retry queues, by whether they are those for queues with a bound.
    retries: BTreeSet<bool>,
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
            suspected: Mutex::default(),
            mismatched: Mutex::default(),
        }
    }

    /// Adds a durable queue to the desired state.
    pub(super) fn want(&self, spec: &QueueSpec) {
        let mut wanted = self.wanted.lock_unpoisoned();
        if wanted.insert(spec.name.clone(), spec.clone()).is_none() {
            self.current.store(0, Ordering::Release);
        }
    }

    /// The queues that are wanted.
    pub(super) fn wanted(&self) -> Vec<QueueSpec> {
        self.wanted.lock_unpoisoned().values().cloned().collect()
    }

    /// The queues that exist with other arguments than wanted.
    pub(super) fn mismatched(&self) -> BTreeSet<String> {
        self.mismatched.lock_unpoisoned().clone()
    }

    /// Declares what is wanted, unless that was done on the connection that stands.
    pub(super) async fn ensure(&self) -> Result<(), BrokerError> {
        let connection = self.link.up().await?;
        if self.current.load(Ordering::Acquire) == connection && !self.is_stale() {
            return Ok(());
        }
        let mut known = self.known.lock().await;
        // It may have been replaced during the wait for the lock.
        let connection = self.link.up().await?;
        if self.is_stale.swap(false, Ordering::AcqRel) || known.connection != connection {
            // Until all is declared again nothing counts as current, even if this attempt fails.
            self.current.store(0, Ordering::Release);
            *known = Known::default();
            let channel = self.link.channel().await?;
            topology::declare_exchanges(&channel, &self.namespace).await?;
            link::close(&channel).await;
            known.connection = connection;
        }
        let wanted = self.wanted();
        self.declare_missing(&wanted, &mut known).await?;
        // A queue added meanwhile is left to the next call. The guard is held over the store, so
        // that none is added between the two.
        let now_wanted = self.wanted.lock_unpoisoned();
        if now_wanted.len() == wanted.len() {
            self.current.store(connection, Ordering::Release);
        }
        Ok(())
    }

    /// Declares those of `wanted` that are not known, and the retry queues that they use.
    async fn declare_missing(
        &self,
        wanted: &[QueueSpec],
        known: &mut Known,
    ) -> Result<(), BrokerError> {
        let missing: Vec<_> = wanted
            .iter()
            .filter(|spec| !known.queues.contains(&spec.name))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut declaring = Declaring::begin(self).await?;
        for spec in missing {
            let is_bounded = spec.max_length.is_some();
            if !known.retries.contains(&is_bounded) {
                declaring.retries(is_bounded).await?;
                known.retries.insert(is_bounded);
            }
            declaring.durable(spec).await?;
            known.queues.insert(spec.name.clone());
        }
        declaring.end().await;
        Ok(())
    }

    /// Records that `queue` exists with other arguments; logs it the first time.
    fn note_mismatch(&self, queue: &str, error: &BrokerError) {
        if self.mismatched.lock_unpoisoned().insert(self.short(queue)) {
            tracing::error!(error = error as &dyn std::error::Error, "queue mismatch");
        }
    }

    /// The name of a queue within the namespace.
    fn short(&self, queue: &str) -> String {
        let short = queue.strip_prefix(&self.namespace);
        let short = short.and_then(|rest| rest.strip_prefix('.'));
        short.unwrap_or(queue).to_owned()
    }

    /// Returns whether a declared exchange or queue turned out to be missing.
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Acquire)
    }

    /// Marks all declarations as stale: they are repeated before the next use.
    pub(super) fn forget(&self) {
        self.is_stale.store(true, Ordering::Release);
    }

    /// [`forget`](Self::forget), at most once in [`SUSPICION_PAUSE`].
    pub(super) fn suspect(&self) {
        let mut suspected = self.suspected.lock_unpoisoned();
        if suspected.is_none_or(|at| at.elapsed() >= SUSPICION_PAUSE) {
            *suspected = Some(Instant::now());
            self.forget();
        }
    }
}

/// Declarations on one channel. A refusal closes the channel, and another one takes its place.
struct Declaring<'a> {
    declared: &'a Declared,
    channel: Channel,
}

impl<'a> Declaring<'a> {
    async fn begin(declared: &'a Declared) -> Result<Self, BrokerError> {
        Ok(Self {
            channel: declared.link.channel().await?,
            declared,
        })
    }

    /// Declares a durable queue, its dead queue and its bindings.
    async fn durable(&mut self, spec: &QueueSpec) -> Result<(), BrokerError> {
        let namespace = self.declared.namespace.as_str();
        let names = QueueNames::new(namespace, &spec.name);
        self.queue(&names.dead, topology::dead_arguments()).await?;
        self.queue(&names.main, spec.arguments(&names.dead)).await?;
        for (exchange, routing_key) in &spec.bindings {
            let exchange = exchange.full_name(namespace);
            topology::bind(&self.channel, &names.main, &exchange, routing_key).await?;
        }
        Ok(())
    }

    /// Declares one set of retry queues, each behind a fanout exchange of the same name.
    async fn retries(&mut self, is_bounded: bool) -> Result<(), BrokerError> {
        for (name, delay) in topology::retries(&self.declared.namespace, is_bounded) {
            topology::declare_fanout(&self.channel, &name).await?;
            self.queue(&name, topology::retry_arguments(delay)).await?;
            topology::bind(&self.channel, &name, &name, "").await?;
        }
        Ok(())
    }

    /// Declares one queue. One that exists with other arguments is recorded and used as it is.
    async fn queue(&mut self, name: &str, arguments: FieldTable) -> Result<(), BrokerError> {
        let declared = self.declared;
        match topology::declare_queue(&self.channel, name, arguments).await {
            Ok(()) => {
                declared
                    .mismatched
                    .lock_unpoisoned()
                    .remove(&declared.short(name));
                Ok(())
            }
            Err(error @ BrokerError::Mismatch { .. }) => {
                declared.note_mismatch(name, &error);
                self.channel = declared.link.channel().await?;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn end(self) {
        link::close(&self.channel).await;
    }
}
