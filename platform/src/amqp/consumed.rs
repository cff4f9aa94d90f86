//! The queues that this process consumes at the moment.

use std::collections::BTreeMap;

use tokio::sync::watch;

/// Counts the consumers of each queue that RabbitMQ has acknowledged.
#[derive(Debug, Default)]
pub(super) struct Consumed(watch::Sender<BTreeMap<String, usize>>);

/// One consumer, until it is dropped.
#[derive(Debug)]
pub(super) struct Consuming<'a> {
    consumed: &'a Consumed,
    queue: &'a str,
}

impl Consumed {
    /// Counts a consumer of `queue`.
    pub(super) fn begin<'a>(&'a self, queue: &'a str) -> Consuming<'a> {
        self.0.send_modify(|queues| {
            *queues.entry(queue.to_owned()).or_default() += 1;
        });
        Consuming {
            consumed: self,
            queue,
        }
    }

    /// Waits until each of these queues has a consumer.
    pub(super) async fn wait_for(&self, wanted: &[String]) {
        let is_consumed = |queues: &BTreeMap<String, usize>| {
            wanted.iter().all(|queue| queues.contains_key(queue))
        };
        self.0
            .subscribe()
            .wait_for(is_consumed)
            .await
            .map(drop)
            .expect("the sender lives as long as self");
    }
}

impl Drop for Consuming<'_> {
    fn drop(&mut self) {
        self.consumed.0.send_modify(|queues| {
            if let Some(count) = queues.get_mut(self.queue) {
                *count -= 1;
                if *count == 0 {
                    queues.remove(self.queue);
                }
            }
        });
    }
}
