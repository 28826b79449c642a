//! Values of options, and whole command lines.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    gw::cli::fuzz_values(text);
    // Making the parser takes a millisecond: not for every input.
    if text.starts_with('-') {
        let arguments: Vec<&str> = text.split('\n').collect();
        gw::cli::fuzz_arguments(&arguments);
    }
});
