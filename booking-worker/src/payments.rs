//! Consumer of `booking.payments`: what became of payments.

use domain::BookingId;
use domain::message::{Message, PaymentAuthorised, PaymentCaptured, PaymentFailed, PaymentVoided};
use platform::amqp::{BatchHandler, Delivery, ParseError, Verdict};
use platform::outbox;
use platform::pg::run_tx;
use platform::service::Context;

use crate::OWNER;
use crate::confirm::{News, confirm_authorised, mark_captured};
use crate::end::end_unpayable;
use crate::error::WorkError;
use crate::run::{Runner, Work};

/// Handles news of payments.
pub(crate) struct Payments {
    ctx: Context,
}

impl Payments {
    pub(crate) fn new(ctx: Context) -> Self {
        Self { ctx }
    }
}

/// What happened to a payment, as far as the booking is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Authorised,
    Captured,
    /// Voided or failed: no money will come.
    Ended,
}

/// News with the place of its message in the batch.
struct Entry {
    index: usize,
    kind: Kind,
    booking_id: BookingId,
}

impl BatchHandler for Payments {
    async fn handle_batch(&self, batch: Vec<Delivery>) -> Vec<Verdict> {
        let runner = Runner::new(&self.ctx.shutdown);
        let mut verdicts = vec![Verdict::Ack; batch.len()];
        let mut entries = Vec::with_capacity(batch.len());
        for (index, delivery) in batch.iter().enumerate() {
            match parse(delivery) {
                Ok((kind, booking_id)) => entries.push(Entry {
                    index,
                    kind,
                    booking_id,
                }),
                Err(error) => verdicts[index] = error.into(),
            }
        }
        for run in entries.chunk_by(|one, next| one.kind == next.kind) {
            let ids: Vec<_> = run.iter().map(|entry| entry.booking_id).collect();
            let work = TakeNews {
                ctx: &self.ctx,
                kind: run[0].kind,
            };
            for (entry, news) in run.iter().zip(runner.settle(&work, &ids).await) {
                if news != Some(News::Taken) {
                    verdicts[entry.index] = Verdict::retry(&batch[entry.index]);
                }
            }
        }
        verdicts
    }
}

fn parse(delivery: &Delivery) -> Result<(Kind, BookingId), ParseError> {
    Ok(match delivery.name.as_str() {
        PaymentAuthorised::NAME => (
            Kind::Authorised,
            delivery.parse::<PaymentAuthorised>()?.booking_id,
        ),
        PaymentCaptured::NAME => (
            Kind::Captured,
            delivery.parse::<PaymentCaptured>()?.booking_id,
        ),
        PaymentFailed::NAME => (Kind::Ended, delivery.parse::<PaymentFailed>()?.booking_id),
        _ => (Kind::Ended, delivery.parse::<PaymentVoided>()?.booking_id),
    })
}

struct TakeNews<'a> {
    ctx: &'a Context,
    kind: Kind,
}

impl Work for TakeNews<'_> {
    type Command = BookingId;
    type Answer = News;

    async fn attempt(&self, ids: &[BookingId]) -> Result<Vec<News>, WorkError> {
        let now = self.ctx.clock.now();
        let db = &self.ctx.db;
        let news = match self.kind {
            Kind::Authorised => {
                let work = run_tx(db, "confirm", |tx| {
                    Box::pin(confirm_authorised(tx, ids, now))
                });
                work.await?
            }
            Kind::Captured => {
                run_tx(db, "mark_captured", |tx| {
                    Box::pin(mark_captured(tx, ids, now))
                })
                .await?
            }
            Kind::Ended => {
                run_tx(db, "end_unpayable", |tx| {
                    Box::pin(end_unpayable(tx, ids, now))
                })
                .await?
            }
        };
        outbox::wake(OWNER);
        Ok(news)
    }
}
