//! A publishing channel with a window of unconfirmed messages.
//!
//! One task owns the channel, for two reasons found in lapin's source. A publish takes its
//! delivery tag and queues its frames in two steps, so two tasks publishing on one channel can
//! get each other's confirms. And lapin hands a returned message to whichever confirm comes next,
//! which with several in flight is often another message's; so the task looks at all confirms
//! that have come before it believes any of them, and finds the returned ones by message id.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::error::{BrokerError, PublishError, within};
use super::link::{Link, REQUEST_LIMIT};

/// Capacity of a channel's backlog, in messages.
const BACKLOG: usize = 1024;
/// Most unconfirmed messages in flight.
const WINDOW: usize = 1024;

/// A message to be published.
pub(super) struct Publish {
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) mandatory: bool,
    pub(super) body: Bytes,
    pub(super) message_id: Uuid,
    pub(super) properties: BasicProperties,
}

type Reply = oneshot::Sender<Result<(), PublishError>>;
type Confirmed = (Uuid, Reply, lapin::Result<Confirmation>);

#[derive(Clone)]
pub(super) struct ConfirmChannel {
    jobs: mpsc::Sender<(Publish, Reply)>,
    broken: CancellationToken,
}

impl ConfirmChannel {
    pub(super) async fn open(link: &Link) -> Result<Self, BrokerError> {
        let channel = link.channel().await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        within(REQUEST_LIMIT, "switch confirms on", select).await?;
        let (jobs, inbox) = mpsc::channel(BACKLOG);
        let confirms = Self {
            jobs,
            broken: CancellationToken::new(),
        };
        tokio::spawn(run(channel, inbox, confirms.broken.clone()));
        Ok(confirms)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.broken.is_cancelled()
    }

    /// Abandons the channel: unconfirmed publishes fail with [`PublishError::Unknown`].
    pub(super) fn discard(&self) {
        self.broken.cancel();
    }

    /// Enqueues a message; the receiver resolves to its outcome, or closes with the channel. `None`
    /// when the channel is gone and nothing was sent.
    pub(super) async fn send(
        &self,
        job: Publish,
    ) -> Option<oneshot::Receiver<Result<(), PublishError>>> {
        let (reply, fate) = oneshot::channel();
        self.jobs.send((job, reply)).await.ok().map(|()| fate)
    }
}

async fn run(
    channel: Channel,
    mut inbox: mpsc::Receiver<(Publish, Reply)>,
    broken: CancellationToken,
) {
    let mut in_flight = FuturesUnordered::new();
    let mut returned = HashSet::new();
    loop {
        tokio::select! {
            () = broken.cancelled() => break,
            confirmed = all_ready(&mut in_flight), if !in_flight.is_empty() => {
                if !settle(confirmed, &mut returned) {
                    break;
                }
            }
            job = inbox.recv(), if in_flight.len() < WINDOW => match job {
                Some((job, reply)) => {
                    in_flight.push(publish(channel.clone(), job, reply));
                    while in_flight.len() < WINDOW
                        && let Ok((job, reply)) = inbox.try_recv()
                    {
                        in_flight.push(publish(channel.clone(), job, reply));
                    }
                }
                None => break,
            },
        }
    }
    broken.cancel();
    for (_, reply, outcome) in drain_ready(&mut in_flight) {
        let _ = reply.send(outcome_of(outcome, false));
    }
}

async fn publish(channel: Channel, job: Publish, reply: Reply) -> Confirmed {
    let options = BasicPublishOptions {
        mandatory: job.mandatory,
        immediate: false,
    };
    let sent = channel
        .basic_publish(
            job.exchange.into(),
            job.routing_key.into(),
            options,
            &job.body,
            job.properties,
        )
        .await;
    let outcome = match sent {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    (job.message_id, reply, outcome)
}

/// Resolves the publishes. `false` when the channel is broken.
fn settle(confirmed: Vec<Confirmed>, returned: &mut HashSet<Uuid>) -> bool {
    returned.extend(
        confirmed
            .iter()
            .filter_map(|(_, _, outcome)| returned_id(outcome)),
    );
    let mut healthy = true;
    for (id, reply, outcome) in confirmed {
        healthy &= outcome.is_ok();
        let was_returned = returned.remove(&id);
        // The sender may have given up waiting.
        let _ = reply.send(outcome_of(outcome, was_returned));
    }
    healthy
}

fn returned_id(outcome: &lapin::Result<Confirmation>) -> Option<Uuid> {
    let (Ok(Confirmation::Ack(message)) | Ok(Confirmation::Nack(message))) = outcome else {
        return None;
    };
    let id = message
        .as_ref()?
        .delivery
        .properties
        .message_id()
        .as_ref()?;
    id.as_str().parse().ok()
}

fn outcome_of(
    outcome: lapin::Result<Confirmation>,
    was_returned: bool,
) -> Result<(), PublishError> {
    match outcome {
        Ok(_) if was_returned => Err(PublishError::Unroutable),
        Ok(Confirmation::Nack(_)) => Err(PublishError::Full),
        Ok(Confirmation::Ack(_) | Confirmation::NotRequested) => Ok(()),
        Err(source) => Err(PublishError::Unknown(BrokerError::Amqp {
            operation: "publish",
            source,
        })),
    }
}

/// Waits for a first item, then drains all that are ready.
async fn all_ready<S: Stream + Unpin>(stream: &mut S) -> Vec<S::Item> {
    std::future::poll_fn(|context| {
        let items = poll_all(stream, context.waker());
        if items.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(items)
        }
    })
    .await
}

fn drain_ready<S: Stream + Unpin>(stream: &mut S) -> Vec<S::Item> {
    poll_all(stream, Waker::noop())
}

/// Polls until nothing more is ready. `FuturesUnordered` may answer `Pending` early to let others
/// run, and shows that by waking: so `Pending` is believed only when nobody woke meanwhile.
fn poll_all<S: Stream + Unpin>(stream: &mut S, waker: &Waker) -> Vec<S::Item> {
    let flag = Arc::new(Flag {
        woken: AtomicBool::new(false),
        task: waker.clone(),
    });
    let flagged = Waker::from(flag.clone());
    let mut context = Context::from_waker(&flagged);
    let mut items = Vec::new();
    loop {
        flag.woken.store(false, Ordering::SeqCst);
        match Pin::new(&mut *stream).poll_next(&mut context) {
            Poll::Ready(Some(item)) => items.push(item),
            Poll::Ready(None) => return items,
            Poll::Pending if flag.woken.load(Ordering::SeqCst) => {}
            Poll::Pending => return items,
        }
    }
}

struct Flag {
    woken: AtomicBool,
    task: Waker,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.task.wake_by_ref();
    }
}
