//! The whole table of the state machine, state by command, through the worker's messages and SQL:
//! each booking ends where `domain::booking::Booking::after` says.

use chrono::DateTime;
use domain::booking::{Booking, BookingCommand, BookingFacts, RejectReason, Wish};
use domain::message::{PaymentAuthorised, PaymentCaptured, PlaceHold};
use domain::payment::VoidReason;
use domain::{AccountId, BookingId};

use crate::shop::{EVENT, LIMIT, Shop, best, euros, floor};
use platform::testing::eventually;

/// More tickets than an account may have: such a request is rejected.
const TOO_MANY: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Requested,
    Held,
    RunOut,
    GivenUp,
    Confirmed,
    Paid,
    Rejected,
    Expired,
    Cancelled,
}

impl State {
    const ALL: [Self; 9] = [
        Self::Requested,
        Self::Held,
        Self::RunOut,
        Self::GivenUp,
        Self::Confirmed,
        Self::Paid,
        Self::Rejected,
        Self::Expired,
        Self::Cancelled,
    ];

    fn of(booking: &Booking) -> Self {
        match booking {
            Booking::Requested => Self::Requested,
            Booking::Held { ending: None, .. } => Self::Held,
            Booking::Held {
                ending: Some(VoidReason::HoldExpired),
                ..
            } => Self::RunOut,
            Booking::Held {
                ending: Some(VoidReason::Cancelled),
                ..
            } => Self::GivenUp,
            Booking::Confirmed { is_paid: false, .. } => Self::Confirmed,
            Booking::Confirmed { is_paid: true, .. } => Self::Paid,
            Booking::Rejected(_) => Self::Rejected,
            Booking::Expired(_) => Self::Expired,
            Booking::Cancelled(_) => Self::Cancelled,
        }
    }

    fn booking(self) -> Booking {
        let held = |ending| Booking::Held {
            facts: facts(),
            ending,
        };
        let confirmed = |is_paid| Booking::Confirmed {
            facts: facts(),
            is_paid,
        };
        match self {
            Self::Requested => Booking::Requested,
            Self::Held => held(None),
            Self::RunOut => held(Some(VoidReason::HoldExpired)),
            Self::GivenUp => held(Some(VoidReason::Cancelled)),
            Self::Confirmed => confirmed(false),
            Self::Paid => confirmed(true),
            Self::Rejected => Booking::Rejected(RejectReason::SoldOut),
            Self::Expired => Booking::Expired(facts()),
            Self::Cancelled => Booking::Cancelled(facts()),
        }
    }

    /// The commands that lead here from a request.
    fn path(self) -> Vec<Command> {
        use Command::{Confirm, EndUnpayable, GiveUp, Hold, MarkPaid, Reject, RunOut};
        match self {
            Self::Requested => vec![],
            Self::Held => vec![Hold],
            Self::RunOut => vec![Hold, RunOut],
            Self::GivenUp => vec![Hold, GiveUp],
            Self::Confirmed => vec![Hold, Confirm],
            Self::Paid => vec![Hold, Confirm, MarkPaid],
            Self::Rejected => vec![Reject],
            Self::Expired => vec![Hold, RunOut, EndUnpayable],
            Self::Cancelled => vec![Hold, GiveUp, EndUnpayable],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Hold,
    Reject,
    Confirm,
    MarkPaid,
    RunOut,
    GiveUp,
    EndUnpayable,
}

impl Command {
    const ALL: [Self; 7] = [
        Self::Hold,
        Self::Reject,
        Self::Confirm,
        Self::MarkPaid,
        Self::RunOut,
        Self::GiveUp,
        Self::EndUnpayable,
    ];

    /// The state after this command, by the machine.
    fn after(self, state: State) -> State {
        let command = match self {
            Self::Hold => BookingCommand::Hold(facts()),
            Self::Reject => BookingCommand::Reject(RejectReason::SoldOut),
            Self::Confirm => BookingCommand::Confirm,
            Self::MarkPaid => BookingCommand::MarkPaid,
            Self::RunOut => BookingCommand::RunOut,
            Self::GiveUp => BookingCommand::GiveUp,
            Self::EndUnpayable => BookingCommand::EndUnpayable,
        };
        let next = state.booking().after(command);
        next.map_or(state, |next| State::of(&next))
    }
}

fn facts() -> BookingFacts {
    BookingFacts {
        booking_id: BookingId(uuid::Uuid::nil()),
        event_id: EVENT,
        account_id: AccountId(1),
        seats: Vec::new(),
        total: euros(500),
        hold_until: DateTime::UNIX_EPOCH,
        created_at: DateTime::UNIX_EPOCH,
    }
}

/// A booking of the table.
struct Cell {
    from: State,
    command: Command,
    request: PlaceHold,
}

impl Cell {
    fn expected(&self) -> State {
        self.command.after(self.from)
    }
}

impl Shop {
    fn cells(&self) -> Vec<Cell> {
        let all = State::ALL
            .into_iter()
            .flat_map(|from| Command::ALL.map(|command| (from, command)));
        let cells = (100..).zip(all).map(|(account, (from, command))| Cell {
            from,
            command,
            request: self.request(account, best(1)),
        });
        cells.collect()
    }

    /// Sends a command to a booking, as the worker gets it.
    async fn give(&self, request: &PlaceHold, command: Command) {
        let (booking_id, amount) = (request.booking_id, euros(500));
        match command {
            Command::Hold => self.send(request).await,
            Command::Reject => {
                let wish = Wish::best(TOO_MANY);
                let request = PlaceHold {
                    wish,
                    ..request.clone()
                };
                self.send(&request).await;
            }
            Command::Confirm => self.tell(&PaymentAuthorised { booking_id, amount }).await,
            Command::MarkPaid => self.tell(&PaymentCaptured { booking_id, amount }).await,
            Command::RunOut => self.end_time_of(booking_id).await,
            Command::GiveUp => self.send_cancel(booking_id).await,
            Command::EndUnpayable => self.void(booking_id).await,
        }
    }

    /// Lets the time of one hold be over.
    async fn end_time_of(&self, id: BookingId) {
        sqlx::query("update booking.bookings set hold_until = created_at where id = $1")
            .bind(id.0)
            .execute(&self.app.ctx.db)
            .await
            .unwrap();
    }

    /// Waits until the sweep has found every hold whose time is over.
    async fn sweep(&self) {
        eventually(LIMIT, async || {
            let due = "select count(*) from booking.bookings
                where state = 'held' and ending is null and hold_until <= created_at";
            self.count(due).await == 0
        })
        .await;
    }

    async fn machine_state(&self, id: BookingId) -> State {
        let query = "select state, ending, captured_at is not null
            from booking.bookings where id = $1";
        let row: Option<(String, Option<String>, bool)> = sqlx::query_as(query)
            .bind(id.0)
            .fetch_optional(&self.app.ctx.db)
            .await
            .unwrap();
        let Some((state, ending, is_paid)) = row else {
            return State::Requested;
        };
        match (&*state, ending.as_deref(), is_paid) {
            ("held", None, false) => State::Held,
            ("held", Some("hold_expired"), false) => State::RunOut,
            ("held", Some("cancelled"), false) => State::GivenUp,
            ("confirmed", None, false) => State::Confirmed,
            ("confirmed", None, true) => State::Paid,
            ("rejected", None, false) => State::Rejected,
            ("expired", None, false) => State::Expired,
            ("cancelled", None, _) => State::Cancelled,
            other => panic!("a row that is in no state: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_in_every_state_does_what_the_machine_says() {
    let shop = Shop::open(vec![floor(1, 200, euros(500))]).await;
    let cells = shop.cells();
    for step in 0..3 {
        for cell in &cells {
            if let Some(command) = cell.from.path().get(step) {
                shop.give(&cell.request, *command).await;
            }
        }
        shop.settle().await;
        shop.sweep().await;
    }
    for cell in &cells {
        let state = shop.machine_state(cell.request.booking_id).await;
        assert_eq!(state, cell.from, "the way there");
    }
    // Twice: a redelivery changes nothing.
    for _ in 0..2 {
        for cell in &cells {
            shop.give(&cell.request, cell.command).await;
        }
        shop.settle().await;
        shop.sweep().await;
        for cell in &cells {
            let (from, command) = (cell.from, cell.command);
            let state = shop.machine_state(cell.request.booking_id).await;
            assert_eq!(state, cell.expected(), "{from:?} after {command:?}");
        }
    }
    let changes = cells.iter().filter(|cell| cell.expected() != cell.from);
    assert_eq!(changes.count(), 15);
    shop.close().await;
}
