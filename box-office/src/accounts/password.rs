//! Argon2id password hashing (OWASP parameters: 19 MiB, 2 passes, 1 lane) on dedicated threads
//! behind a FIFO queue, with admission control: load is shed by expected wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use platform::problem::{Kind, Problem};
use platform::sync::MutexExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::oneshot;

use crate::fields::invalid;

/// Allowed length of a password, in characters.
const LENGTH: std::ops::RangeInclusive<usize> = 10..=200;
/// Capacity of one queue, a backstop: the limit on the expected wait is usually hit first.
const MAX_QUEUED: u64 = 4_096;
/// Inverse of the weight of the latest sample in the EWMA of hashing time.
const COST_WEIGHT: u64 = 8;

/// Error of hashing or verifying a password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The queue is too long; carries the expected wait, to be sent as `Retry-After`.
    #[error("the password hashing queue is full")]
    Busy(Duration),
    /// The hash could not be computed, or a stored one could not be parsed.
    #[error("failed to hash the password: {0}")]
    Hash(argon2::password_hash::Error),
    /// The hashing thread dropped the job without an answer.
    #[error("the hashing thread failed")]
    Thread,
    /// No thread could be started.
    #[error("failed to spawn a hashing thread")]
    Spawn(#[source] std::io::Error),
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy(wait) => {
                let detail = "Too many people are signing in. Try again in a moment.";
                Self::new(Kind::Overloaded, detail).retry_after(wait)
            }
            other => Self::internal(&other),
        }
    }
}

/// Checks the length of a password, in characters.
///
/// # Errors
/// `invalid`, naming `password`.
pub(crate) fn check_length(password: &SecretString) -> Result<(), Problem> {
    if LENGTH.contains(&password.expose_secret().chars().count()) {
        return Ok(());
    }
    let detail = format!("{} to {} characters.", LENGTH.start(), LENGTH.end());
    Err(invalid("password", detail))
}

/// The hashing queue that a request joins: staff have their own, so that none of them waits behind
/// the public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HashQueue {
    /// The public listener.
    Public,
    /// The internal listener.
    Staff,
}

/// The hashing pools: for the public on all cores but one, so that the async runtime keeps a core,
/// and for staff on one thread.
pub(crate) struct Passwords {
    public: Pool,
    staff: Pool,
    decoy: String,
}

impl Passwords {
    /// Spawns the threads; `wait` is the longest expected wait at which a caller is admitted.
    ///
    /// # Errors
    /// When a thread can't be spawned, or the decoy hash can't be computed.
    pub(crate) async fn start(wait: Duration) -> Result<Self, PasswordError> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let public = Pool::start("password", (cores - 1).max(1), wait)?;
        let staff = Pool::start("staff password", 1, wait)?;
        let decoy = public.admit()?.run(|| hash("nobody's password")).await?;
        Ok(Self {
            public,
            staff,
            decoy,
        })
    }

    /// Reserves a place in `queue`. Requests are admitted before any quota is charged,
    /// so that load shedding costs the caller nothing.
    ///
    /// # Errors
    /// [`PasswordError::Busy`] when the queue is too long.
    pub(crate) fn admit(&self, queue: HashQueue) -> Result<Admitted<'_>, PasswordError> {
        let pool = match queue {
            HashQueue::Public => &self.public,
            HashQueue::Staff => &self.staff,
        };
        Ok(Admitted {
            slot: pool.admit()?,
            decoy: &self.decoy,
        })
    }
}

/// A place in a hashing queue, good for one password. Dropping it releases the place.
pub(crate) struct Admitted<'a> {
    slot: Slot<'a>,
    decoy: &'a str,
}

impl Admitted<'_> {
    /// Returns the hash to store, in PHC string format.
    ///
    /// # Errors
    /// When hashing fails.
    pub(crate) async fn hash(self, password: SecretString) -> Result<String, PasswordError> {
        self.slot.run(move || hash(password.expose_secret())).await
    }

    /// Returns true if `password` matches `stored`. Without a stored hash it returns false after
    /// the same work, so that timing does not reveal which addresses have an account.
    ///
    /// # Errors
    /// When `stored` is not a hash.
    pub(crate) async fn verify(
        self,
        password: SecretString,
        stored: Option<String>,
    ) -> Result<bool, PasswordError> {
        let is_known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.decoy.to_owned());
        let work = move || verify(password.expose_secret(), &stored);
        Ok(self.slot.run(work).await? && is_known)
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A fixed set of threads consuming one queue, whose length is bounded by [`Pool::admit`].
struct Pool {
    jobs: Sender<Job>,
    threads: u64,
    load: Arc<PoolLoad>,
    max_wait: Duration,
}

/// Inputs of the expected wait: queue length and service time (Little's law).
#[derive(Debug, Default)]
struct PoolLoad {
    /// Jobs admitted: to be queued, queued or running.
    jobs: AtomicU64,
    /// EWMA of the service time of one job, in microseconds.
    cost_micros: AtomicU64,
}

impl Pool {
    fn start(name: &str, threads: usize, max_wait: Duration) -> Result<Self, PasswordError> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || drain(&queue))
                .map_err(PasswordError::Spawn)?;
        }
        Ok(Self {
            jobs,
            threads: u64::try_from(threads).unwrap_or(1),
            load: Arc::default(),
            max_wait,
        })
    }

    /// Admits one job, unless the expected wait behind those admitted before is too long.
    fn admit(&self) -> Result<Slot<'_>, PasswordError> {
        let (counted, ahead) = Counted::one(&self.load);
        let wait = self.load.expected_wait(ahead, self.threads);
        if ahead >= MAX_QUEUED || wait > self.max_wait {
            return Err(PasswordError::Busy(wait));
        }
        Ok(Slot {
            pool: self,
            counted,
        })
    }
}

/// An admitted job that has no work yet.
struct Slot<'a> {
    pool: &'a Pool,
    counted: Counted,
}

impl Slot<'_> {
    /// Runs `work` on a thread of the pool. The job of a caller that was dropped while queued is
    /// skipped.
    async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let Self { pool, counted } = self;
        let (done, outcome) = oneshot::channel();
        let job = Box::new(move || {
            if done.is_closed() {
                return;
            }
            let begun = Instant::now();
            let worked = work();
            counted.load.record(begun.elapsed());
            // Released before the answer, so that the caller's next job does not wait behind it.
            drop(counted);
            // The caller may have been dropped meanwhile.
            let _gone = done.send(worked);
        });
        pool.jobs.send(job).map_err(|_| PasswordError::Thread)?;
        outcome.await.map_err(|_| PasswordError::Thread)?
    }
}

fn drain(queue: &Mutex<Receiver<Job>>) {
    loop {
        let next = queue.lock_unpoisoned().recv();
        let Ok(job) = next else { return };
        job();
    }
}

impl PoolLoad {
    fn expected_wait(&self, ahead: u64, threads: u64) -> Duration {
        let cost = self.cost_micros.load(Ordering::Relaxed);
        Duration::from_micros(ahead * cost / threads)
    }

    fn record(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / COST_WEIGHT);
        let average = |cost: u64| match cost {
            0 => took,
            cost => cost - cost / COST_WEIGHT + took / COST_WEIGHT,
        };
        let _previous =
            self.cost_micros
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |cost| {
                    Some(average(cost))
                });
    }
}

/// Guard that counts a job until it is dropped.
struct Counted {
    load: Arc<PoolLoad>,
}

impl Counted {
    /// Counts one more job, and returns the number of those before it.
    fn one(load: &Arc<PoolLoad>) -> (Self, u64) {
        let ahead = load.jobs.fetch_add(1, Ordering::Relaxed);
        let load = Arc::clone(load);
        (Self { load }, ahead)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.load.jobs.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hashes `password` with a random salt. `Argon2::default()` is Argon2id with the module's
/// parameters.
pub(crate) fn hash(password: &str) -> Result<String, PasswordError> {
    let hash = Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(PasswordError::Hash)?;
    Ok(hash.to_string())
}

fn verify(password: &str, stored: &str) -> Result<bool, PasswordError> {
    use argon2::password_hash::Error;
    let stored =
        PasswordHash::new(stored).map_err(|_| PasswordError::Hash(Error::EncodingInvalid))?;
    match Argon2::default().verify_password(password.as_bytes(), &stored) {
        Ok(()) => Ok(true),
        Err(Error::PasswordInvalid) => Ok(false),
        Err(other) => Err(PasswordError::Hash(other)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn hashes_are_argon2id_with_the_recommended_cost() {
        let stored = hash("correct horse").unwrap();
        assert!(
            stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{stored}"
        );
        assert_ne!(stored, hash("correct horse").unwrap());
    }

    #[tokio::test]
    async fn only_the_right_password_verifies_and_a_missing_hash_never_does() {
        let passwords = Passwords::start(LONG).await.unwrap();
        let admit = || passwords.admit(HashQueue::Public).unwrap();
        let stored = admit().hash("correct horse".into()).await.unwrap();
        let verify = |password: &str, stored| admit().verify(password.into(), stored);
        assert!(verify("correct horse", Some(stored.clone())).await.unwrap());
        assert!(!verify("wrong horse", Some(stored)).await.unwrap());
        assert!(!verify("nobody's password", None).await.unwrap());
    }

    /// Blocks the one thread of `pool` until the returned sender is dropped.
    fn occupy(pool: &Arc<Pool>) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (running, runs) = mpsc::channel();
        let pool = Arc::clone(pool);
        tokio::spawn(async move {
            let work = move || {
                running.send(()).ok();
                released.recv().ok();
                Ok(())
            };
            pool.admit()?.run(work).await
        });
        tokio::task::block_in_place(|| runs.recv().unwrap());
        release
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_caller_who_would_wait_too_long_is_told_how_long_it_takes() {
        let pool = Arc::new(Pool::start("test", 1, Duration::from_secs(2)).unwrap());
        pool.load.cost_micros.store(3_000_000, Ordering::Relaxed);
        let release = occupy(&pool);
        let refused = pool.admit().map(drop);
        assert!(
            matches!(refused, Err(PasswordError::Busy(wait)) if wait == Duration::from_secs(3)),
            "{refused:?}"
        );
        drop(release);
        let is_idle = async || pool.load.jobs.load(Ordering::Relaxed) == 0;
        platform::testing::eventually(LONG, is_idle).await;
        pool.admit().unwrap().run(|| Ok(())).await.unwrap();
    }

    #[test]
    fn an_admission_that_is_not_used_makes_room_for_the_next() {
        let pool = Pool::start("test", 1, Duration::from_secs(2)).unwrap();
        pool.load.cost_micros.store(3_000_000, Ordering::Relaxed);
        let admitted = pool.admit().unwrap();
        assert!(pool.admit().is_err());
        drop(admitted);
        assert!(pool.admit().is_ok());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn those_who_hang_up_cost_nothing_and_the_others_keep_their_order() {
        let pool = Arc::new(Pool::start("test", 1, LONG).unwrap());
        let release = occupy(&pool);
        let (ran, runs) = mpsc::channel();
        let mut waiting = Vec::new();
        for n in 0..5 {
            let (ran, pool_of_job) = (ran.clone(), Arc::clone(&pool));
            let job = tokio::spawn(async move {
                let run = move || {
                    ran.send(n).unwrap();
                    Ok(())
                };
                pool_of_job.admit()?.run(run).await
            });
            let is_queued = async || pool.load.jobs.load(Ordering::Relaxed) == n + 2;
            platform::testing::eventually(LONG, is_queued).await;
            waiting.push(job);
        }
        waiting.remove(2).abort();
        let has_gone = async || Arc::strong_count(&pool) == 6;
        platform::testing::eventually(LONG, has_gone).await;
        drop((release, ran));
        for job in waiting {
            job.await.unwrap().unwrap();
        }
        assert_eq!(runs.iter().collect::<Vec<_>>(), [0, 1, 3, 4]);
    }
}
