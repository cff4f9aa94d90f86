//! Consumer of `booking.payments`: transitions of payments.

use domain::BookingId;
use domain::booking::EndReason;
use domain::message::{Message, PaymentAuthorised, PaymentCaptured, PaymentFailed, PaymentVoided};
use platform::amqp::{BatchHandler, Delivery, ParseError, Verdict};
use platform::outbox::Staged;
use platform::pg::run_tx;
use platform::service::Context;

use crate::OWNER;
use crate::confirm::{TransitionOutcome, confirm_authorised, mark_captured};
use crate::end::end_unpayable;
use crate::error::WorkError;
use crate::run::{Runner, Transaction};

pub(crate) struct PaymentHandler {
    ctx: Context,
}

impl PaymentHandler {
    pub(crate) fn new(ctx: Context) -> Self {
        Self { ctx }
    }
}

/// A transition of a payment, as far as it concerns the booking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TransitionKind {
    Authorised,
    Captured,
    /// Voided or failed: no money will come.
    Ended,
    /// Stripe refused to create the PaymentIntent.
    Refused,
}

/// A transition with the index of its message in the batch.
struct Transition {
    index: usize,
    kind: TransitionKind,
    booking_id: BookingId,
}

impl BatchHandler for PaymentHandler {
    async fn handle_batch(&self, batch: Vec<Delivery>) -> Vec<Verdict> {
        let runner = Runner::new(&self.ctx.shutdown);
        let mut verdicts = vec![Verdict::Ack; batch.len()];
        let mut entries = Vec::with_capacity(batch.len());
        for (index, delivery) in batch.iter().enumerate() {
            match parse(delivery) {
                Ok((kind, booking_id)) => entries.push(Transition {
                    index,
                    kind,
                    booking_id,
                }),
                Err(error) => verdicts[index] = error.into(),
            }
        }
        // One transaction per kind, in the order in which they happen to a payment.
        for kind in [
            TransitionKind::Authorised,
            TransitionKind::Captured,
            TransitionKind::Ended,
            TransitionKind::Refused,
        ] {
            let run: Vec<_> = entries.iter().filter(|entry| entry.kind == kind).collect();
            let ids: Vec<_> = run.iter().map(|entry| entry.booking_id).collect();
            if ids.is_empty() {
                continue;
            }
            let work = ApplyTransitions {
                ctx: &self.ctx,
                kind,
            };
            for (entry, outcome) in run.iter().zip(runner.settle(&work, &ids).await) {
                if outcome != Some(TransitionOutcome::Applied) {
                    verdicts[entry.index] = Verdict::retry(&batch[entry.index]);
                }
            }
        }
        verdicts
    }
}

fn parse(delivery: &Delivery) -> Result<(TransitionKind, BookingId), ParseError> {
    Ok(match delivery.name.as_str() {
        PaymentAuthorised::NAME => (
            TransitionKind::Authorised,
            delivery.parse::<PaymentAuthorised>()?.booking_id,
        ),
        PaymentCaptured::NAME => (
            TransitionKind::Captured,
            delivery.parse::<PaymentCaptured>()?.booking_id,
        ),
        PaymentFailed::NAME => {
            let failed: PaymentFailed = delivery.parse()?;
            let kind = if failed.is_refused {
                TransitionKind::Refused
            } else {
                TransitionKind::Ended
            };
            (kind, failed.booking_id)
        }
        _ => (
            TransitionKind::Ended,
            delivery.parse::<PaymentVoided>()?.booking_id,
        ),
    })
}

struct ApplyTransitions<'a> {
    ctx: &'a Context,
    kind: TransitionKind,
}

impl Transaction for ApplyTransitions<'_> {
    type Command = BookingId;
    type Output = TransitionOutcome;

    async fn attempt(&self, ids: &[BookingId]) -> Result<Vec<TransitionOutcome>, WorkError> {
        let (ctx, kind, now) = (self.ctx, self.kind, self.ctx.clock.now());
        let name = match kind {
            TransitionKind::Authorised => "confirm",
            TransitionKind::Captured => "mark_captured",
            TransitionKind::Ended => "end_unpayable",
            TransitionKind::Refused => "end_refused",
        };
        let taking = run_tx(&ctx.db, name, |tx| {
            Box::pin(async move {
                let mut staged = Staged::of(OWNER);
                let outcomes = match kind {
                    TransitionKind::Authorised => {
                        confirm_authorised(tx, ids, now, &ctx.keys, &mut staged).await?
                    }
                    TransitionKind::Captured => mark_captured(tx, ids, now, &mut staged).await?,
                    TransitionKind::Ended => end_unpayable(tx, ids, None, now, &mut staged).await?,
                    TransitionKind::Refused => {
                        let reason = Some(EndReason::PaymentRefused);
                        end_unpayable(tx, ids, reason, now, &mut staged).await?
                    }
                };
                Ok::<_, sqlx::Error>((outcomes, staged))
            })
        });
        let (outcomes, staged) = taking.await?;
        ctx.send_soon(staged);
        Ok(outcomes)
    }
}
