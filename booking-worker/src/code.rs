//! Ticket codes.

use domain::{EventId, SeatId};
use platform::tokens::{KeyRing, TicketFace};
use rand::TryRngCore;
use rand::rngs::OsRng;

/// Signs a new code, which a scanner verifies offline. 128 bits of it are from the operating
/// system's generator, so it can't be guessed and no two tickets of a seat share one.
pub(crate) fn new_code(keys: &KeyRing, event_id: EventId, seat_id: SeatId) -> String {
    let mut nonce = [0; 16];
    OsRng
        .try_fill_bytes(&mut nonce)
        .expect("the operating system has randomness");
    keys.sign_ticket(TicketFace {
        event_id,
        seat_id,
        nonce,
    })
}
