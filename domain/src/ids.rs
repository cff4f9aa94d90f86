//! Identifiers. Each is its own type, so that a seat can't be passed where an event belongs.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::{Builder, NoContext, Timestamp, Uuid};

/// An id that is an `$inner`.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl From<$inner> for $name {
            fn from(id: $inner) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = <$inner as FromStr>::Err;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

/// An id that is a UUID version 7, which begins with the time.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        id! { $(#[$doc])* $name(Uuid) }

        impl $name {
            /// A new id. Those made later are greater, to the millisecond.
            #[must_use]
            pub fn new(now: DateTime<Utc>) -> Self {
                let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
                let stamp = Timestamp::from_unix(NoContext, seconds, now.timestamp_subsec_nanos());
                Self(Uuid::new_v7(stamp))
            }

            /// The least id of those made at `at` or later.
            #[must_use]
            pub fn least_at(at: DateTime<Utc>) -> Self {
                let millis = u64::try_from(at.timestamp_millis()).unwrap_or(0);
                Self(Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid())
            }
        }
    };
}

id! {
    /// An event, and its sale: a sale has the id of its event.
    EventId(i64)
}
id! {
    /// A person's account. In the queue of a sale that is open to anybody, a negative one is an
    /// anonymous visitor, drawn at random.
    AccountId(i64)
}

impl AccountId {
    /// Returns whether this is an anonymous visitor instead of an account.
    #[must_use]
    pub fn is_visitor(self) -> bool {
        self.0 < 0
    }

    /// The visitor that `random` bits make.
    #[must_use]
    pub fn visitor(random: u64) -> Self {
        Self(random.cast_signed() | i64::MIN)
    }
}
id! {
    /// A section of one event.
    SectionId(i64)
}
id! {
    /// A seat of one section; a general-admission place is one too.
    SeatId(i64)
}
id! {
    /// The number of a joiner in one sale's queue, from 1, in the order of joining. Numbers from
    /// before the lottery get their [`Place`] from its draw; later ones have the place that equals
    /// their number.
    Number(i64)
}
id! {
    /// The number that decides the order in which one sale's queue is called, from 1.
    Place(i64)
}

uuid_id! {
    /// A booking. A UUID version 7, made by admission when it accepts the request.
    BookingId
}
uuid_id! {
    /// A refund, whoever began it. A UUID version 7; Stripe's id of the same refund is text.
    RefundId
}
uuid_id! {
    /// A stored call to Stripe. A UUID version 7.
    OperationId
}
uuid_id! {
    /// A disagreement about money that a person must look at. A UUID version 7.
    FindingId
}
