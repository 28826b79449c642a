//! Rules of impairment, as users write them.
#![no_main]

use gw::impair::Rule;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(rule) = text.parse::<Rule>() {
        // What lists call it is the same rule.
        let again: Rule = rule.to_string().parse().expect("was read before");
        assert_eq!(again, rule);
    }
});
