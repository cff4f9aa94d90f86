//! A ticket that changes hands: both are told once, and the new holder also of its end.

use domain::AccountId;
use domain::booking::TicketFacts;
use domain::message::{AccountChanged, BookingPaid, TicketTransferred};

use crate::stage::{ACCOUNT, Stage, event};

const FRIEND: AccountId = AccountId(77);

fn transferred(paid: &BookingPaid) -> TicketTransferred {
    TicketTransferred {
        booking: paid.booking.clone(),
        ticket: TicketFacts {
            code: "T1.the.new.code".to_owned(),
            seat: paid.tickets[0].seat.clone(),
        },
        from: ACCOUNT,
        to: FRIEND,
        number: 1,
    }
}

#[tokio::test]
async fn both_are_told_once_and_the_new_holder_also_of_the_end() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    stage
        .tell(&AccountChanged {
            account_id: FRIEND,
            version: 1,
            email: "friend@example.org".to_owned(),
            name: "Friend".to_owned(),
            phone: None,
        })
        .await;
    let paid = stage.paid(&event, 2);
    let id = paid.booking.booking_id;
    // In the wrong order: the transfer waits for the payment.
    stage.tell(&transferred(&paid)).await;
    stage.tell(&paid).await;
    for kind in ["transferred", "received"] {
        stage.mail_is(id, kind, "sent").await;
    }
    let (to_old, to_new) = (stage.mails(id, "transferred"), stage.mails(id, "received"));
    assert_eq!((to_old.len(), to_new.len()), (1, 1));
    assert!(!to_old[0].text.contains("T1.the.new.code"));
    assert_ne!(to_old[0].to, ["friend@example.org"]);
    assert_eq!(to_new[0].to, ["friend@example.org"]);
    assert!(to_new[0].text.contains("T1.the.new.code"));

    // The buyer is reminded of the ticket that is left only.
    let left: i32 = sqlx::query_scalar(
        "select jsonb_array_length(facts -> 'tickets') from notifier.bookings where booking_id = $1",
    )
    .bind(id.0)
    .fetch_one(&stage.app.ctx.db)
    .await
    .unwrap();
    assert_eq!(left, 1);

    stage.cancel(&paid).await;
    stage.mail_is(id, "withdrawn", "sent").await;
    let told = stage.mails(id, "withdrawn");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].to, ["friend@example.org"]);
    stage.app.finish().await;
}
