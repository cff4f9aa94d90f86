//! A small house under random commands: the booking machine with its seats and its money, compared
//! after each with a reference model that knows nothing but tables of words.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::collections::BTreeMap;

use chrono::DateTime;
use domain::booking::{BookedSeat, Booking, BookingCommand, BookingFacts, RejectReason};
use domain::payment::{PaymentState, VoidReason};
use domain::{AccountId, BookingId, Currency, EventId, Money, SeatId};
use proptest::prelude::{BoxedStrategy, Just, Strategy, prop_oneof};
use proptest::test_runner::Config;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

const SEATS: i64 = 6;
const PRICE: i64 = 500;

/// Buyers: more than there are seats for.
type Buyer = u8;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Command {
    /// Asks for so many seats; a repeat is the redelivery of the same request.
    Ask(Buyer, usize),
    /// Authorises the payment.
    Authorise(Buyer),
    /// The hold's time is over.
    RunOut(Buyer),
    /// Cancels the booking.
    GiveUp(Buyer),
    /// The news that the payment is authorised arrives, maybe again.
    HearAuthorised(Buyer),
    /// The payment worker carries out what was asked: capture, void or refund.
    Settle(Buyer),
}

/// The reference: what each booking is called, what its money is called, and how many seats it has.
#[derive(Debug, Clone, Default)]
struct Words {
    bookings: BTreeMap<Buyer, (&'static str, &'static str, usize)>,
}

impl Words {
    fn free(&self) -> usize {
        let taken = |(booking, _, seats): &(&str, &str, usize)| match *booking {
            "held" | "run out" | "given up" | "confirmed" | "paid" => *seats,
            _ => 0,
        };
        usize::try_from(SEATS).unwrap() - self.bookings.values().map(taken).sum::<usize>()
    }
}

struct Reference;

impl ReferenceStateMachine for Reference {
    type State = Words;
    type Transition = Command;

    fn init_state() -> BoxedStrategy<Words> {
        Just(Words::default()).boxed()
    }

    fn transitions(_: &Words) -> BoxedStrategy<Command> {
        let buyer = 0_u8..5;
        prop_oneof![
            4 => (buyer.clone(), 1_usize..4).prop_map(|(who, seats)| Command::Ask(who, seats)),
            3 => buyer.clone().prop_map(Command::Authorise),
            3 => buyer.clone().prop_map(Command::HearAuthorised),
            3 => buyer.clone().prop_map(Command::Settle),
            1 => buyer.clone().prop_map(Command::RunOut),
            1 => buyer.prop_map(Command::GiveUp),
        ]
        .boxed()
    }

    fn apply(mut words: Words, command: &Command) -> Words {
        let free = words.free();
        match command {
            Command::Ask(who, seats) => {
                words.bookings.entry(*who).or_insert(if *seats <= free {
                    ("held", "pending", *seats)
                } else {
                    ("rejected", "", 0)
                });
            }
            Command::Authorise(who)
            | Command::RunOut(who)
            | Command::GiveUp(who)
            | Command::HearAuthorised(who)
            | Command::Settle(who) => {
                if let Some((booking, money, _)) = words.bookings.get_mut(who) {
                    (*booking, *money) = next(booking, money, command);
                }
            }
        }
        words
    }
}

/// States of booking and payment after `command`.
fn next(
    booking: &'static str,
    money: &'static str,
    command: &Command,
) -> (&'static str, &'static str) {
    match (command, booking, money) {
        (Command::Authorise(_), _, "pending") => (booking, "authorised"),
        (Command::RunOut(_), "held", _) => ("run out", money),
        (Command::GiveUp(_), "held" | "run out", _) => ("given up", money),
        (Command::GiveUp(_), "confirmed" | "paid", _) => ("cancelled", money),
        (Command::HearAuthorised(_), "held" | "run out", "authorised") => ("confirmed", money),
        (Command::Settle(_), "run out", "pending") => ("expired", "voided"),
        // The buyer won the race.
        (Command::Settle(_), "run out", "authorised") => ("confirmed", "authorised"),
        (Command::Settle(_), "given up", "pending" | "authorised") => ("cancelled", "voided"),
        (Command::Settle(_), "confirmed", "authorised") => ("paid", "captured"),
        (Command::Settle(_), "cancelled", "authorised") => ("cancelled", "voided"),
        (Command::Settle(_), "cancelled", "captured") => ("cancelled", "refunded"),
        _ => (booking, money),
    }
}

/// The system under test: the machine, its seats and the payment beside it.
#[derive(Default)]
struct House {
    bookings: BTreeMap<Buyer, Booking>,
    money: BTreeMap<Buyer, PaymentState>,
    refunded: BTreeMap<Buyer, bool>,
}

impl House {
    fn ask(&mut self, who: Buyer, wanted: usize) {
        if self.bookings.contains_key(&who) {
            // A redelivered request finds its booking.
            return;
        }
        let taken: Vec<_> = self.live_seats();
        let free = (0..SEATS).map(SeatId).filter(|seat| !taken.contains(seat));
        let seats: Vec<_> = free.take(wanted).collect();
        let command = if seats.len() == wanted {
            self.money.insert(who, PaymentState::Pending);
            BookingCommand::Hold(facts(who, &seats))
        } else {
            BookingCommand::Reject(RejectReason::SoldOut)
        };
        let booking = Booking::Requested.after(command);
        self.bookings
            .insert(who, booking.expect("a request may be held or rejected"));
    }

    /// A command that the state refuses changes nothing.
    fn give(&mut self, who: Buyer, command: BookingCommand) -> bool {
        let Some(booking) = self.bookings.remove(&who) else {
            return false;
        };
        let (booking, is_done) = match booking.after(command) {
            Ok(next) => (next, true),
            Err(refused) => (*refused.booking, false),
        };
        self.bookings.insert(who, booking);
        is_done
    }

    fn hear_authorised(&mut self, who: Buyer) {
        if self.money.get(&who) == Some(&PaymentState::Authorised) {
            self.give(who, BookingCommand::Confirm);
        }
    }

    /// The payment worker's reaction to a booking.
    fn settle(&mut self, who: Buyer) {
        let (Some(booking), Some(money)) = (self.bookings.get(&who), self.money.get(&who)) else {
            return;
        };
        let ending = match booking {
            Booking::Held { ending, .. } => *ending,
            _ => None,
        };
        match (booking, money, ending) {
            (_, PaymentState::Pending, Some(_))
            | (_, PaymentState::Authorised, Some(VoidReason::Cancelled)) => {
                self.money.insert(who, PaymentState::Voided);
                self.give(who, BookingCommand::EndUnpayable);
            }
            (_, PaymentState::Authorised, Some(VoidReason::HoldExpired)) => {
                self.give(who, BookingCommand::Confirm);
            }
            (Booking::Confirmed { .. }, PaymentState::Authorised, _) => {
                self.money.insert(who, PaymentState::Captured);
                self.give(who, BookingCommand::MarkPaid);
            }
            (Booking::Cancelled(_), PaymentState::Authorised, _) => {
                self.money.insert(who, PaymentState::Voided);
            }
            (Booking::Cancelled(_), PaymentState::Captured, _) => {
                self.refunded.insert(who, true);
            }
            _ => {}
        }
    }

    fn live_seats(&self) -> Vec<SeatId> {
        let live = self.bookings.values().filter_map(Booking::live);
        live.flat_map(|facts| facts.seats.iter().map(|seat| seat.id))
            .collect()
    }

    fn words(&self, who: Buyer) -> Option<(&'static str, &'static str, usize)> {
        let booking = self.bookings.get(&who)?;
        let (name, seats) = match booking {
            Booking::Requested => ("requested", 0),
            Booking::Held { facts, ending } => {
                let name = match ending {
                    None => "held",
                    Some(VoidReason::HoldExpired) => "run out",
                    Some(VoidReason::Cancelled) => "given up",
                };
                (name, facts.seats.len())
            }
            Booking::Confirmed { facts, is_paid } => (
                if *is_paid { "paid" } else { "confirmed" },
                facts.seats.len(),
            ),
            Booking::Rejected(_) => ("rejected", 0),
            Booking::Expired(facts) => ("expired", facts.seats.len()),
            Booking::Cancelled(facts) => ("cancelled", facts.seats.len()),
        };
        let money = match self.money.get(&who) {
            None => "",
            Some(_) if self.refunded.contains_key(&who) => "refunded",
            Some(state) => state.as_str(),
        };
        Some((name, money, seats))
    }
}

fn facts(who: Buyer, seats: &[SeatId]) -> BookingFacts {
    let booked = seats.iter().map(|seat| BookedSeat {
        id: *seat,
        section: "Stalls".to_owned(),
        row: None,
        number: None,
    });
    let count = i64::try_from(seats.len()).unwrap();
    BookingFacts {
        booking_id: BookingId(uuid::Uuid::from_u128(who.into())),
        event_id: EventId(1),
        account_id: AccountId(who.into()),
        seats: booked.collect(),
        total: Money::new(PRICE * count, Currency::EUR),
        hold_until: DateTime::UNIX_EPOCH,
        created_at: DateTime::UNIX_EPOCH,
    }
}

impl StateMachineTest for House {
    type SystemUnderTest = Self;
    type Reference = Reference;

    fn init_test(_: &Words) -> Self {
        Self::default()
    }

    fn apply(mut house: Self, words: &Words, command: Command) -> Self {
        match command {
            Command::Ask(who, seats) => house.ask(who, seats),
            Command::Authorise(who) => {
                if house.money.get(&who).is_some_and(|money| money.is_due()) {
                    house.money.insert(who, PaymentState::Authorised);
                }
            }
            Command::RunOut(who) => {
                house.give(who, BookingCommand::RunOut);
            }
            Command::GiveUp(who) => {
                house.give(who, BookingCommand::GiveUp);
            }
            Command::HearAuthorised(who) => house.hear_authorised(who),
            Command::Settle(who) => house.settle(who),
        }
        for (who, expected) in &words.bookings {
            assert_eq!(house.words(*who).as_ref(), Some(expected), "buyer {who}");
        }
        house
    }

    fn check_invariants(house: &Self, words: &Words) {
        let mut seats = house.live_seats();
        let count = seats.len();
        assert_eq!(usize::try_from(SEATS).unwrap() - count, words.free(), "I10");
        seats.sort_unstable();
        seats.dedup();
        assert_eq!(seats.len(), count, "I1: a seat has two live bookings");
        for (who, booking) in &house.bookings {
            let money = house.money.get(who);
            if let Booking::Confirmed { is_paid, .. } = booking {
                let has_money = match money {
                    Some(PaymentState::Captured) => true,
                    Some(PaymentState::Authorised) => !is_paid,
                    _ => false,
                };
                assert!(has_money, "I3: {booking:?} with {money:?}");
            }
            if money == Some(&PaymentState::Captured) {
                let has_ticket_or_refund_to_come =
                    matches!(booking, Booking::Confirmed { .. } | Booking::Cancelled(_));
                assert!(has_ticket_or_refund_to_come, "I2: {booking:?}");
            }
        }
    }
}

prop_state_machine! {
    #![proptest_config(Config { cases: 512, ..Config::default() })]

    #[test]
    fn a_house_sold_in_any_order_agrees_with_the_model(sequential 1..60 => House);
}
