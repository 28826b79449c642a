//! Which flows are shown, and in which order.

use std::cmp::{Ordering, Reverse};

use super::model::Row;
use super::names;

/// What flows are sorted by. Each begins with what people look for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Order {
    /// The fastest.
    #[default]
    Rate,
    /// Those that carried most.
    Total,
    /// The youngest.
    Age,
    /// By the name of the remote.
    Name,
}

impl Order {
    /// As people read it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Total => "total",
            Self::Age => "age",
            Self::Name => "name",
        }
    }

    /// The one after it, round and round.
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Rate => Self::Total,
            Self::Total => Self::Age,
            Self::Age => Self::Name,
            Self::Name => Self::Rate,
        }
    }

    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let by = match self {
            Self::Rate => Reverse(a.rate()).cmp(&Reverse(b.rate())),
            Self::Total => Ordering::Equal,
            Self::Age => a.flow.age_seconds.cmp(&b.flow.age_seconds),
            Self::Name => names::remote(&a.flow).cmp(&names::remote(&b.flow)),
        };
        // The same from look to look where nothing differs.
        by.then_with(|| Reverse(a.total()).cmp(&Reverse(b.total())))
            .then_with(|| a.flow.id.0.cmp(&b.flow.id.0))
    }
}

/// Which way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Direction {
    /// As [`Order`] says.
    #[default]
    Forward,
    /// The reverse.
    Backward,
}

impl Direction {
    /// The other one.
    pub(super) const fn turned(self) -> Self {
        match self {
            Self::Forward => Self::Backward,
            Self::Backward => Self::Forward,
        }
    }
}

/// The flows that contain all words of `filter`, in order: places in `rows`.
pub(super) fn arrange(
    rows: &[Row],
    filter: &str,
    order: Order,
    direction: Direction,
) -> Vec<usize> {
    let filter = filter.to_lowercase();
    let words: Vec<&str> = filter.split_whitespace().collect();
    let mut places: Vec<usize> = (0..rows.len())
        .filter(|&at| words.is_empty() || contains_all(&rows[at], &words))
        .collect();
    places.sort_by(|&a, &b| {
        let ordering = order.compare(&rows[a], &rows[b]);
        match direction {
            Direction::Forward => ordering,
            Direction::Backward => ordering.reverse(),
        }
    });
    places
}

fn contains_all(row: &Row, words: &[&str]) -> bool {
    let text = names::searched(&row.flow).to_lowercase();
    words.iter().all(|word| text.contains(word))
}
