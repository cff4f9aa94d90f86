//! Small rules that much hangs on: the words of the wire, who is staff, what a wish asks for, what
//! a commitment binds.

use chrono::{DateTime, TimeDelta};
use domain::account::Role;
use domain::booking::{BookingState, Part, RejectReason, Wish};
use domain::clock::{Clock as _, ManualClock, SystemClock};
use domain::lottery::{Draw, Permutation, commitment};
use domain::payment::{PaymentState, RefundState, VoidReason};
use domain::sale::SaleState;
use domain::token::{audience_sale, sale_audience, subject};
use domain::{AccountId, BookingId, EventId, Number, Place, SeatId, SectionId};

#[test]
fn the_words_of_the_wire_are_these() {
    let roles = ["customer", "organiser", "operator", "admin"];
    assert_eq!(Role::ALL.map(Role::as_str), roles);
    assert_eq!(
        Role::ALL.map(|role| Role::parse(role.as_str()).unwrap()),
        Role::ALL
    );
    assert_eq!(Role::parse("wizard"), None);
    let bookings = [
        "requested",
        "held",
        "confirmed",
        "rejected",
        "expired",
        "cancelled",
    ];
    assert_eq!(BookingState::ALL.map(BookingState::as_str), bookings);
    assert_eq!(RejectReason::SoldOut.as_str(), "sold_out");
    let refunds = ["pending", "succeeded", "failed"];
    assert_eq!(RefundState::ALL.map(RefundState::as_str), refunds);
    for state in RefundState::ALL {
        assert_eq!(RefundState::parse(state.as_str()), Some(state));
    }
    for (reason, word) in [
        (VoidReason::HoldExpired, "hold_expired"),
        (VoidReason::Cancelled, "cancelled"),
    ] {
        assert_eq!(reason.as_str(), word);
        assert_eq!(VoidReason::parse(word), Some(reason));
    }
    assert_eq!(VoidReason::parse("whim"), None);
    assert_eq!(
        PaymentState::parse("authorised"),
        Some(PaymentState::Authorised)
    );
}

#[test]
fn a_visitor_is_never_an_account() {
    assert!(!AccountId(1).is_visitor());
    assert!(!AccountId(0).is_visitor());
    assert!(AccountId(-1).is_visitor());
    for random in [0, 1, u64::MAX, 0x7FFF_FFFF_FFFF_FFFF] {
        assert!(AccountId::visitor(random).is_visitor(), "{random}");
    }
    assert_ne!(AccountId::visitor(1), AccountId::visitor(2));
}

#[test]
fn ids_are_shown_as_they_are_read() {
    assert_eq!(EventId(42).to_string(), "42");
    assert_eq!("42".parse::<EventId>().unwrap(), EventId(42));
    let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let id = BookingId::new(at);
    assert_eq!(id.to_string().parse::<BookingId>().unwrap(), id);
    assert_eq!(id.0.get_version_num(), 7);
}

#[test]
fn final_states_are_those_that_nothing_leaves() {
    let is_final = BookingState::ALL.map(BookingState::is_final);
    assert_eq!(is_final, [false, false, false, true, true, true]);
    let is_due = PaymentState::ALL.map(PaymentState::is_due);
    assert_eq!(is_due, [true, true, false, false, false, false]);
}

#[test]
fn a_wish_counts_the_tickets_of_all_its_parts() {
    let part = |tickets| Part {
        tickets,
        section_id: None,
        tier: None,
    };
    assert_eq!(Wish::best(3).tickets(), 3);
    assert_eq!(Wish::best_in(SectionId(1), 2).tickets(), 2);
    assert_eq!(Wish::Mixed(vec![part(2), part(3), part(4)]).tickets(), 9);
    assert_eq!(
        Wish::Mixed(vec![part(u32::MAX), part(2)]).tickets(),
        u32::MAX
    );
    let seats = (1..=5).map(SeatId).collect();
    assert_eq!(Wish::Seats(seats).tickets(), 5);
    assert_eq!(Wish::Mixed(Vec::new()).tickets(), 0);
}

#[test]
fn the_queue_is_joined_and_bookings_are_made_in_these_states() {
    use SaleState::{Closed, Lobby, Open, Paused, Scheduled, SoldOut};
    for (state, joinable, bookable) in [
        (Scheduled, false, false),
        (Lobby, true, false),
        (Open, true, true),
        (Paused, true, true),
        (SoldOut, false, true),
        (Closed, false, false),
    ] {
        assert_eq!(state.is_joinable(), joinable, "{state:?}");
        assert_eq!(state.is_bookable(), bookable, "{state:?}");
    }
}

#[test]
fn a_commitment_is_the_sha_256_of_the_seed() {
    let zeros = "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925";
    assert_eq!(domain::hex::encode(&commitment(&[0; 32])), zeros);
    assert_ne!(commitment(&[0; 32]), commitment(&[1; 32]));
}

#[test]
fn a_lobby_counts_those_whom_the_lottery_moved() {
    let draw = Draw {
        lobby: 17,
        seed: [3; 32],
        entropy: String::new(),
    };
    assert_eq!(draw.permutation().lobby(), 17);
    assert_eq!(Permutation::identity().lobby(), 0);
    assert_eq!(Permutation::identity().place_of(Number(1)), Place(1));
    assert_eq!(draw.permutation().number_of(Place(18)), Number(18));
}

#[test]
fn a_token_names_one_sale_and_one_account() {
    assert_ne!(sale_audience(EventId(1)), sale_audience(EventId(11)));
    assert_eq!(
        audience_sale(&sale_audience(EventId(11))),
        Some(EventId(11))
    );
    assert_eq!(audience_sale("onsale"), None);
    assert_eq!(subject("7"), Some(AccountId(7)));
    assert_eq!(subject("seven"), None);
}

#[test]
fn the_bound_of_a_body_is_64_kibibytes() {
    assert_eq!(domain::limits::MAX_BODY_BYTES, 65_536);
}

#[test]
fn clocks_move_on() {
    let start = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    let clock = ManualClock::at(start);
    clock.advance(TimeDelta::seconds(5));
    assert_eq!(clock.now(), start + TimeDelta::seconds(5));
    let before = SystemClock.now();
    assert!(before > start - TimeDelta::days(3_650));
    assert!(SystemClock::shared().now() >= before);
}
