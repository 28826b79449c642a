//! Effects with names of their own. The values and where they come from are in
//! docs/impairment.md; a test compares the two.

use std::time::Duration;

use super::effect::{Bursts, Distribution, Loss, Order, PacketEffect, Rate, Rates, Share};

/// All of them, and what each is like.
pub(super) const PRESETS: &[(&str, Preset)] = &[
    (
        "3g",
        Preset {
            delay_us: 150_000,
            jitter_us: 0,
            distribution: Distribution::Uniform,
            loss: Lossy::Not,
            up_kbit: 768,
            down_kbit: 1_600,
        },
    ),
    (
        "4g",
        Preset {
            delay_us: 85_000,
            jitter_us: 0,
            distribution: Distribution::Uniform,
            loss: Lossy::Not,
            up_kbit: 9_000,
            down_kbit: 9_000,
        },
    ),
    (
        "dsl",
        Preset {
            delay_us: 25_000,
            jitter_us: 0,
            distribution: Distribution::Uniform,
            loss: Lossy::Not,
            up_kbit: 384,
            down_kbit: 1_500,
        },
    ),
    (
        "satellite",
        Preset {
            delay_us: 300_000,
            jitter_us: 10_000,
            distribution: Distribution::Normal,
            loss: Lossy::Random(0.1),
            up_kbit: 3_000,
            down_kbit: 25_000,
        },
    ),
    (
        "flaky-wifi",
        Preset {
            delay_us: 10_000,
            jitter_us: 15_000,
            distribution: Distribution::Pareto,
            loss: Lossy::Bursts(1.0, 20.0),
            up_kbit: 20_000,
            down_kbit: 20_000,
        },
    ),
    (
        "dead",
        Preset {
            delay_us: 0,
            jitter_us: 0,
            distribution: Distribution::Uniform,
            loss: Lossy::Random(100.0),
            up_kbit: 0,
            down_kbit: 0,
        },
    ),
];

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preset {
    delay_us: u64,
    jitter_us: u64,
    distribution: Distribution,
    loss: Lossy,
    /// 0: no rate.
    up_kbit: u64,
    down_kbit: u64,
}

/// Shares in percent.
#[derive(Debug, Clone, Copy)]
enum Lossy {
    Not,
    Random(f64),
    /// `p` and `r` of [`Bursts`].
    Bursts(f64, f64),
}

/// The effect that `name` stands for.
pub(super) fn preset(name: &str) -> Option<PacketEffect> {
    let (_, preset) = PRESETS.iter().find(|(known, _)| *known == name)?;
    Some(preset.effect())
}

impl Preset {
    fn effect(&self) -> PacketEffect {
        let percent = |percent: f64| Share::new(percent / 100.0).unwrap_or_default();
        let rate = |kbit: u64| Rate::new(kbit * 1000);
        PacketEffect {
            delay: Duration::from_micros(self.delay_us),
            jitter: Duration::from_micros(self.jitter_us),
            distribution: self.distribution,
            order: Order::Keep,
            loss: match self.loss {
                Lossy::Not => Loss::None,
                Lossy::Random(share) => Loss::Random(percent(share)),
                Lossy::Bursts(worsen, recover) => Loss::Bursts(Bursts {
                    worsen: percent(worsen),
                    recover: percent(recover),
                    bad_passes: Share::NONE,
                    good_passes: Share::ALL,
                }),
            },
            rate: rate(self.up_kbit)
                .zip(rate(self.down_kbit))
                .map(|(up, down)| Rates { up, down }),
            ..PacketEffect::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Effect, Rule};
    use super::*;

    const DOCUMENTATION: &str = include_str!("../../docs/impairment.md");

    fn effect(words: &str) -> PacketEffect {
        let rule: Rule = words.parse().expect(words);
        match rule.effect {
            Effect::Packets(effect) => effect,
            other => panic!("{words}: {other:?}"),
        }
    }

    /// Cells of the table's row for `name`, without their quotes.
    fn row(name: &str) -> Vec<String> {
        let start = format!("| `{name}` |");
        let row = DOCUMENTATION.lines().find(|line| line.starts_with(&start));
        let cells = row
            .unwrap_or_else(|| panic!("no row for {name}"))
            .split('|');
        cells.map(|cell| cell.trim().replace('`', "")).collect()
    }

    #[test]
    fn presets_are_as_documented() {
        for (name, preset) in PRESETS {
            let cells = row(name);
            let [_, _, up, down, delay, loss, _] = &cells[..] else {
                panic!("{cells:?}");
            };
            let words = |rate: &str| format!("order=keep {rate} {delay} {loss}");
            let (up, down) = (effect(&words(up)), effect(&words(down)));
            let rate = up.rate.zip(down.rate).map(|(up, down)| Rates {
                up: up.up,
                down: down.down,
            });
            assert_eq!(preset.effect(), PacketEffect { rate, ..up }, "{name}");
        }
    }
}
