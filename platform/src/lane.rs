//! One batch after the other of what many tasks want written: who comes while a transaction runs
//! waits for the next, which takes all that wait. No timer, no setting: what is quiet is written at
//! once, and what is busy with one commit for hundreds.

use std::sync::{Arc, Mutex, PoisonError};

/// How many jobs one batch takes.
const MAX_BATCH: usize = 512;

/// Writes jobs of one kind together, and tells whoever waits for each.
pub trait Write: Send + Sync + 'static {
    /// What is to be written.
    type Job: Send + 'static;

    /// Writes all. A job whose sender is dropped without an answer has failed.
    fn write(&self, jobs: Vec<Self::Job>) -> impl Future<Output = ()> + Send;
}

/// Jobs that wait, and the writer that takes them.
pub struct Lane<W: Write>(Arc<Shared<W>>);

struct Shared<W: Write> {
    writer: W,
    waiting: Mutex<Waiting<W::Job>>,
}

struct Waiting<J> {
    jobs: Vec<J>,
    is_writing: bool,
}

impl<W: Write> Lane<W> {
    /// With nothing waiting.
    pub fn new(writer: W) -> Self {
        let waiting = Waiting {
            jobs: Vec::new(),
            is_writing: false,
        };
        Self(Arc::new(Shared {
            writer,
            waiting: Mutex::new(waiting),
        }))
    }

    /// Adds a job to those that wait; whoever comes while nobody writes sets the writer going.
    pub fn add(&self, job: W::Job) {
        let mut waiting = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        waiting.jobs.push(job);
        if !waiting.is_writing {
            waiting.is_writing = true;
            tokio::spawn(write_until_none_waits(Arc::clone(&self.0)));
        }
    }
}

async fn write_until_none_waits<W: Write>(shared: Arc<Shared<W>>) {
    while let Some(jobs) = shared.next_batch() {
        let shared = Arc::clone(&shared);
        // On its own, so that a panic ends this batch and nothing else.
        let _ended = tokio::spawn(async move { shared.writer.write(jobs).await }).await;
    }
}

impl<W: Write> Shared<W> {
    /// What waits, or `None` when nothing does and the writer rests.
    fn next_batch(&self) -> Option<Vec<W::Job>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.jobs.is_empty() {
            waiting.is_writing = false;
            return None;
        }
        let count = waiting.jobs.len().min(MAX_BATCH);
        Some(waiting.jobs.drain(..count).collect())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    /// Fails on zero; answers the others with the size of their batch.
    struct Doubtful;

    impl Write for Doubtful {
        type Job = (u32, oneshot::Sender<usize>);

        async fn write(&self, jobs: Vec<Self::Job>) {
            let count = jobs.len();
            for (number, sender) in jobs {
                assert_ne!(number, 0, "expected");
                sender.send(count).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn what_comes_while_one_batch_is_written_is_the_next_and_a_panic_ends_its_own_only() {
        let lane = Lane::new(Doubtful);
        let add = |number| {
            let (sender, answer) = oneshot::channel();
            lane.add((number, sender));
            answer
        };
        let all: Vec<_> = (1..=5).map(add).collect();
        for answer in all {
            assert_eq!(answer.await, Ok(5));
        }
        assert!(add(0).await.is_err());
        assert_eq!(add(7).await, Ok(1));
    }
}
