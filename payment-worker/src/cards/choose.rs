use std::sync::Arc;

use axum::extract::State;
use domain::{AccountId, BookingId};
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::pg::run_tx;
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::customer::bring_about;
use super::saved::{of_account, unknown};
use super::{require_stripe, unreachable};
use crate::driver;
use crate::operation::{Kind as OperationKind, Operation, Request};
use crate::recorder::Recorder;
use crate::state::AppState;
use crate::store::payments::Payment;
use crate::store::{customers, operations, payments};
use crate::stripe::Assignment;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Choice {
    /// `true` to save the card that is paid with.
    #[serde(default)]
    save: bool,
    /// The saved card to pay with.
    saved_card: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Done {
    message: &'static str,
}

const DONE: Json<Done> = Json(Done { message: "success" });

/// `PUT /api/bookings/{id}/card`: before the buyer pays, chooses to save the card, or which saved
/// card pays; the browser confirms the PaymentIntent as ever. May be repeated and changed until the
/// payment is made.
pub(super) async fn choose(
    State((state, recorder)): State<(Arc<AppState>, Arc<Recorder>)>,
    caller: Caller,
    Path(id): Path<BookingId>,
    Json(choice): Json<Choice>,
) -> Result<Json<Done>, Problem> {
    let account_id = caller.account_id;
    if choice.save && choice.saved_card.is_some() {
        let problem = Problem::new(Kind::Invalid, "A saved card can't be saved again.");
        return Err(problem.with("field", "save"));
    }
    require_due(&state, id, account_id).await?;
    let customer = match &choice.saved_card {
        Some(card) => match of_account(&state, account_id).await? {
            (Some(customer), cards) if cards.iter().any(|known| known.id == *card) => customer,
            _ => return Err(unknown()),
        },
        None if choice.save => bring_about(&state, account_id).await?,
        // Nothing to take back without a customer.
        None => match customers::find(&state.db, account_id).await? {
            Some(customer) => customer,
            None => return Ok(DONE),
        },
    };
    let assignment = Assignment {
        customer_id: customer,
        keep_card: choice.save,
        card: choice.saved_card,
    };
    assign(&state, &recorder, id, account_id, &assignment).await?;
    Ok(DONE)
}

/// Attaches the PaymentIntent to the customer and waits for it. If this process dies meanwhile, a
/// driver finishes the operation.
async fn assign(
    state: &AppState,
    recorder: &Recorder,
    id: BookingId,
    account_id: AccountId,
    assignment: &Assignment,
) -> Result<(), Problem> {
    require_stripe(state).await?;
    // The claimed operation may be an earlier one with an unknown outcome, which is settled first.
    for _ in 0..2 {
        let operation = begin(state, id, account_id, assignment).await?;
        let is_this = matches!(&operation.request, Request::Assign(begun) if begun == assignment);
        let operation_id = operation.id;
        driver::carry_out(state, recorder, operation).await;
        let (ended, error) = operations::outcome(&state.db, operation_id).await?;
        match ended.as_str() {
            "succeeded" if is_this => return Ok(()),
            "failed" if is_this => return Err(refused(state, account_id, error).await?),
            "succeeded" | "failed" => {}
            _ => return Err(unreachable()),
        }
    }
    Err(unreachable())
}

/// The problem when Stripe refused. The customer may have been deleted there: listing its cards
/// notices that, so that a repeat works.
async fn refused(
    state: &AppState,
    account_id: AccountId,
    error: Option<String>,
) -> Result<Problem, Problem> {
    of_account(state, account_id).await?;
    let error = error.unwrap_or_default();
    let detail = format!("This card can't be used for the payment. {error}");
    Ok(Problem::new(Kind::Conflict, detail))
}

/// Stores the operation and claims it.
async fn begin(
    state: &AppState,
    id: BookingId,
    account_id: AccountId,
    assignment: &Assignment,
) -> Result<Operation, Problem> {
    let lease = driver::lease(state);
    let now = state.now();
    let request = Request::Assign(assignment.clone());
    let beginning = run_tx(&state.db, "payment assign", |tx| {
        let request = &request;
        Box::pin(async move {
            due(tx, id, account_id).await?;
            operations::insert(tx, id, request, now, now).await?;
            let kind = OperationKind::Assign;
            let claimed = operations::claim_of(tx, id, kind, lease, now).await?;
            Ok::<_, Refusal>(claimed)
        })
    });
    let busy = || {
        Problem::new(
            Kind::Overloaded,
            "Another request is choosing the card. Try again.",
        )
    };
    beginning.await?.ok_or_else(busy)
}

/// Checks, before any call to Stripe, that the payment can still be made.
async fn require_due(
    state: &AppState,
    id: BookingId,
    account_id: AccountId,
) -> Result<(), Problem> {
    let checking = run_tx(&state.db, "payment check", |tx| {
        Box::pin(due(tx, id, account_id))
    });
    checking.await?;
    Ok(())
}

/// Locks the account's payment while it can still be paid.
async fn due(
    conn: &mut PgConnection,
    id: BookingId,
    account_id: AccountId,
) -> Result<Payment, Refusal> {
    let payment = payments::lock(conn, id).await?;
    let payment = payment
        .ok_or_else(|| Problem::new(Kind::NotFound, "No payment is due for this booking."))?;
    if payment.account_id != Some(account_id) {
        let detail = "This booking belongs to another account.";
        return Err(Problem::new(Kind::Forbidden, detail).into());
    }
    let is_due = payment.state.is_due() && payment.void_reason.is_none();
    if !is_due || payment.intent_id.is_none() {
        let detail = "This booking can't be paid now: it is paid, has ended, or is not ready yet.";
        return Err(Problem::new(Kind::Conflict, detail).into());
    }
    Ok(payment)
}
