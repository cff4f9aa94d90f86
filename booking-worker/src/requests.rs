//! Consumer of the `booking.requests` partitions: requests and cancellations, in order.

use std::time::Duration;

use domain::booking::{BookingState, CancelRefusal};
use domain::message::{BookingOutcome, CancelBooking, Message, Outcome, PlaceHold};
use platform::amqp::{BatchHandler, Delivery, Verdict};
use platform::outbox::Staged;
use platform::pg::run_tx;
use platform::service::Context;

use crate::cancel::{Cancellation, cancel};
use crate::error::WorkError;
use crate::hold::{Handled, Request, place_holds};
use crate::metrics;
use crate::outcome::{self, Reply};
use crate::run::{Runner, Transaction};
use crate::{MAX_ATTEMPTS, OWNER};

/// Delay of a request for an unknown event.
const NEWS_DELAY: Duration = Duration::from_secs(1);
const MAX_ATTEMPTS_FOR_NEWS: u32 = 3;

/// Handles the commands of one partition.
pub(crate) struct RequestHandler {
    ctx: Context,
}

/// Outcome of a cancellation whose booking never arrived.
const UNDECIDED: Outcome = Outcome::Refused(BookingState::Requested);

/// A command of a buyer.
enum BuyerCommand {
    Place(Request),
    Cancel(CancelBooking),
}

/// A command with the index of its message in the batch.
struct IndexedCommand {
    index: usize,
    command: BuyerCommand,
}

impl RequestHandler {
    pub(crate) fn new(ctx: Context) -> Self {
        Self { ctx }
    }

    /// Carries out commands of one kind; `None` for one that failed.
    async fn carry_out(&self, run: &[IndexedCommand], runner: &Runner<'_>) -> Vec<Option<Handled>> {
        let requests: Vec<_> = run.iter().filter_map(IndexedCommand::request).collect();
        if !requests.is_empty() {
            return runner.settle(&PlaceHolds(&self.ctx), &requests).await;
        }
        let mut answers = Vec::with_capacity(run.len());
        for command in run.iter().filter_map(IndexedCommand::cancellation) {
            answers.extend(runner.settle(&Cancels(&self.ctx), &[command]).await);
        }
        answers
    }
}

impl BatchHandler for RequestHandler {
    async fn handle_batch(&self, batch: Vec<Delivery>) -> Vec<Verdict> {
        metrics::batch_arrived(batch.len());
        let runner = Runner::new(&self.ctx.shutdown);
        let mut verdicts = vec![Verdict::Ack; batch.len()];
        let mut entries = Vec::with_capacity(batch.len());
        for (index, delivery) in batch.iter().enumerate() {
            match parse(delivery) {
                Ok(command) => entries.push(IndexedCommand { index, command }),
                Err(verdict) => verdicts[index] = verdict,
            }
        }
        let mut replies = Vec::new();
        for run in entries.chunk_by(|one, next| one.is_request() == next.is_request()) {
            for (entry, answer) in run.iter().zip(self.carry_out(run, &runner).await) {
                match answer {
                    Some(Handled::Decided(outcome)) => replies.push(entry.reply(outcome, None)),
                    Some(Handled::Denied(why)) => {
                        let refused = Outcome::Refused(BookingState::Confirmed);
                        replies.push(entry.reply(refused, Some(why)));
                    }
                    Some(Handled::Wait) => match entry.wait(&batch[entry.index]) {
                        Some(verdict) => verdicts[entry.index] = verdict,
                        None => replies.push(entry.reply(UNDECIDED, None)),
                    },
                    None => verdicts[entry.index] = Verdict::retry(&batch[entry.index]),
                }
            }
        }
        outcome::publish(&self.ctx.broker, replies);
        verdicts
    }
}

fn parse(delivery: &Delivery) -> Result<BuyerCommand, Verdict> {
    if delivery.name == CancelBooking::NAME {
        return Ok(BuyerCommand::Cancel(delivery.parse()?));
    }
    let command: PlaceHold = delivery.parse()?;
    if command.wish.tickets() == 0 {
        return Err(Verdict::DeadLetter("a request for no tickets".to_owned()));
    }
    let may_wait = delivery.attempt < MAX_ATTEMPTS_FOR_NEWS;
    Ok(BuyerCommand::Place(Request { command, may_wait }))
}

impl IndexedCommand {
    fn is_request(&self) -> bool {
        matches!(self.command, BuyerCommand::Place(_))
    }

    fn request(&self) -> Option<Request> {
        match &self.command {
            BuyerCommand::Place(request) => Some(request.clone()),
            BuyerCommand::Cancel(_) => None,
        }
    }

    fn cancellation(&self) -> Option<CancelBooking> {
        match &self.command {
            BuyerCommand::Place(_) => None,
            BuyerCommand::Cancel(cancellation) => Some(cancellation.clone()),
        }
    }

    /// Returns the retry of a command whose event or booking is unknown; `None` after its last
    /// attempt. A cancellation waits as long as its request may be in a retry queue.
    fn wait(&self, delivery: &Delivery) -> Option<Verdict> {
        match self.command {
            BuyerCommand::Place(_) => Some(Verdict::RetryAfter(NEWS_DELAY)),
            BuyerCommand::Cancel(_) => {
                (delivery.attempt < MAX_ATTEMPTS).then(|| Verdict::retry(delivery))
            }
        }
    }

    fn reply(&self, outcome: Outcome, why: Option<CancelRefusal>) -> Reply {
        let (booking_id, reply_to) = match &self.command {
            BuyerCommand::Place(Request { command, .. }) => (command.booking_id, &command.reply_to),
            BuyerCommand::Cancel(command) => (command.booking_id, &command.reply_to),
        };
        Reply {
            reply_to: reply_to.clone(),
            outcome: BookingOutcome {
                booking_id,
                outcome,
                why,
            },
        }
    }
}

struct PlaceHolds<'a>(&'a Context);

impl Transaction for PlaceHolds<'_> {
    type Command = Request;
    type Output = Handled;

    async fn attempt(&self, requests: &[Request]) -> Result<Vec<Handled>, WorkError> {
        place_holds(self.0, requests, self.0.clock.now()).await
    }
}

struct Cancels<'a>(&'a Context);

impl Transaction for Cancels<'_> {
    type Command = CancelBooking;
    type Output = Handled;

    async fn attempt(&self, commands: &[CancelBooking]) -> Result<Vec<Handled>, WorkError> {
        let now = self.0.clock.now();
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands {
            let (id, asked_by) = (command.booking_id, Some(command.asked_by));
            let cancelling = run_tx(&self.0.db, "cancel_booking", |tx| {
                Box::pin(async move {
                    let mut staged = Staged::of(OWNER);
                    let outcome = cancel(tx, id, asked_by, now, &mut staged).await?;
                    Ok::<_, sqlx::Error>((outcome, staged))
                })
            });
            let (outcome, staged) = cancelling.await?;
            self.0.send_soon(staged);
            answers.push(match outcome {
                Cancellation::Done => Handled::Decided(Outcome::Cancelled),
                Cancellation::Refused(state) => Handled::Decided(Outcome::Refused(state)),
                Cancellation::Denied(why) => Handled::Denied(why),
                Cancellation::Undecided => Handled::Wait,
            });
        }
        Ok(answers)
    }
}
