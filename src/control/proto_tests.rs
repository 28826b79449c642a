//! The protocol is what its documentation says.

use super::*;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeSet;

const DOCUMENTATION: &str = include_str!("../../docs/control.md");

/// Lines of JSON in the documentation.
fn examples() -> Vec<&'static str> {
    let blocks = DOCUMENTATION.split("```json\n").skip(1);
    blocks
        .flat_map(|block| block.split("```").next().expect("a block ends").lines())
        .collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

fn word(value: &Value, member: &str) -> Option<String> {
    Some(value.get(member)?.as_str()?.to_owned())
}

/// Names of an enum's values, as serde lists them in its complaint.
fn names(complaint: &str) -> BTreeSet<String> {
    let list = complaint
        .split("expected one of ")
        .nth(1)
        .expect("a list of names");
    list.split('`')
        .skip(1)
        .step_by(2)
        .map(ToOwned::to_owned)
        .collect()
}

#[test]
fn every_example_is_what_is_spoken() {
    let mut answered = true;
    for line in examples() {
        let value = json(line);
        if value.get("verb").is_some() {
            assert!(answered, "no answer in front of {line}");
            let request = parse(line.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e}"));
            let again = serde_json::to_vec(&request).expect("encodes");
            assert_eq!(parse(&again), Ok(request), "{line}");
        } else {
            let answer: Answer =
                serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{line}: {e}"));
            // To the byte: no member is left out, or has another name.
            let written = String::from_utf8(answer.line()).expect("UTF-8");
            assert_eq!(written.trim_end(), line);
        }
        answered = value.get("verb").is_none();
    }
}

#[test]
fn everything_that_is_spoken_has_an_example() {
    let examples: Vec<Value> = examples().into_iter().map(json).collect();
    let shown = |member| examples.iter().filter_map(|e| word(e, member)).collect();
    let complaint = |text: &str| match parse(text.as_bytes()) {
        Err(RequestError::BadRequest(complaint)) => complaint,
        other => panic!("{other:?}"),
    };
    let verbs: BTreeSet<String> = shown("verb");
    assert_eq!(names(&complaint(r#"{"verb":"?"}"#)), verbs);
    let unknown = serde_json::from_str::<Reply>(r#"{"reply":"?"}"#).expect_err("unknown");
    let replies: BTreeSet<String> = shown("reply");
    assert_eq!(names(&unknown.to_string()), replies);
    // Codes and levels are listed in the text.
    let code = serde_json::from_str::<ErrorCode>("\"?\"").expect_err("unknown");
    let level = complaint(r#"{"verb":"log","level":"?"}"#);
    for name in names(&code.to_string()).union(&names(&level)) {
        assert!(DOCUMENTATION.contains(&format!("`{name}`")), "{name}");
    }
    for origin in [Origin::CommandLine, Origin::Control, Origin::Auto] {
        let name = serde_json::to_string(&origin).expect("encodes");
        let name = name.trim_matches('"');
        assert!(DOCUMENTATION.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn limits_are_those_of_the_documentation() {
    use crate::control::lines::{MAX_CLIENTS, MAX_LINE};
    for text in [
        format!("more than {MAX_LINE} bytes"),
        format!("{MAX_CLIENTS} clients are connected"),
        format!("at most {MAX_PAGE} entries"),
    ] {
        assert!(DOCUMENTATION.contains(&text), "{text}");
    }
}

#[test]
fn what_is_no_request_is_refused_with_a_reason() {
    let deep = format!("{{\"x\":{}", "[".repeat(50_000));
    let deep_object = format!("{}1{}", r#"{"x":"#.repeat(200), "}".repeat(200));
    for (line, code, part) in [
        ("", ErrorCode::NotJson, "not JSON"),
        ("hello", ErrorCode::NotJson, "one object"),
        ("{\"verb\":\"hello\"} {}", ErrorCode::NotJson, "trailing"),
        (&deep, ErrorCode::NotJson, "recursion limit"),
        (&deep_object, ErrorCode::NotJson, "recursion limit"),
        ("[]", ErrorCode::BadRequest, "missing field `verb`"),
        ("7", ErrorCode::BadRequest, "invalid type"),
        ("{}", ErrorCode::BadRequest, "missing field `verb`"),
        (r#"{"verb":7}"#, ErrorCode::BadRequest, "invalid type"),
        (
            r#"{"verb":"?"}"#,
            ErrorCode::BadRequest,
            "unknown variant `?`",
        ),
        (
            r#"{"verb":"hello","verb":"leases"}"#,
            ErrorCode::BadRequest,
            "duplicate field `verb`",
        ),
        (
            r#"{"verb":"leases","limit":1}"#,
            ErrorCode::BadRequest,
            "unknown field `limit`",
        ),
        (
            r#"{"verb":"forward_add"}"#,
            ErrorCode::BadRequest,
            "missing field `forward`",
        ),
        (
            r#"{"verb":"forward_add","forward":{"publish":"1:2:3:4"}}"#,
            ErrorCode::BadRequest,
            "1:2:3:4",
        ),
        (
            r#"{"verb":"forward_add","forward":{"publish":"80"},"again":"Refuse"}"#,
            ErrorCode::BadRequest,
            "unknown field `again`",
        ),
        (
            r#"{"verb":"forward_remove","forward":{"id":0}}"#,
            ErrorCode::BadRequest,
            "nonzero",
        ),
        (
            r#"{"verb":"host_add","name":"a","addr":"localhost"}"#,
            ErrorCode::BadRequest,
            "IP address",
        ),
        (
            r#"{"verb":"flow_list","limit":-1}"#,
            ErrorCode::BadRequest,
            "-1",
        ),
        (
            r#"{"verb":"flow_close","id":"x"}"#,
            ErrorCode::BadRequest,
            "no flow's id",
        ),
    ] {
        let error = parse(line.as_bytes()).expect_err(line);
        let said = error.to_string();
        let start: String = line.chars().take(60).collect();
        assert_eq!(error.code(), code, "{start}: {said}");
        assert!(said.contains(part), "{start}: {said}");
        assert!(!said.contains('\n'), "{said}");
    }
    let error = parse(b"{\"verb\":\"hell\xff\"}").expect_err("no UTF-8");
    assert_eq!(error.code(), ErrorCode::NotJson, "{error}");
}

#[test]
fn errors_are_answers() {
    let answer = Answer::from(Err(RequestError::NotAllowed {
        client: 1001,
        ours: 1000,
    }));
    let line = String::from_utf8(answer.line()).expect("UTF-8");
    assert_eq!(
        line,
        "{\"error\":{\"code\":\"not_allowed\",\"message\":\"user 1001 may not control a gateway of \
         user 1000; ask as that user or root\"}}\n"
    );
}

#[test]
fn filters() {
    let end = |text: &str| text.parse().expect("an address and port");
    let flow = Flow {
        id: FlowId(1),
        protocol: FlowProtocol::Tcp,
        direction: FlowDirection::Outbound,
        state: FlowState::Open,
        guest: end("10.0.2.100:40000"),
        remote: end("10.0.2.2:443"),
        peer: Some(end("[2001:db8::1]:8443")),
        to_guest: 0,
        from_guest: 0,
        age_seconds: 0,
        idle_seconds: 0,
        name: None,
        process: None,
    };
    let filter = |text: &str| -> FlowFilter { serde_json::from_str(text).expect("a filter") };
    for (text, matches) in [
        ("{}", true),
        (r#"{"protocol":"tcp"}"#, true),
        (r#"{"protocol":"udp"}"#, false),
        (r#"{"addr":"10.0.2.100"}"#, true),
        (r#"{"addr":"::ffff:10.0.2.100"}"#, true),
        (r#"{"addr":"2001:db8::1","port":443}"#, true),
        (r#"{"port":8443,"direction":"outbound"}"#, true),
        (r#"{"port":8443,"direction":"inbound"}"#, false),
        (r#"{"addr":"2001:db8::1","port":80}"#, false),
        (r#"{"addr":"2001:db8::2"}"#, false),
    ] {
        assert_eq!(filter(text).matches(&flow), matches, "{text}");
    }
}

/// JSON of any shape, with the words of the protocol in it.
fn any_json() -> impl Strategy<Value = Value> {
    let words = proptest::sample::select(vec![
        "verb",
        "hello",
        "forward_add",
        "forward",
        "publish",
        "expose_host",
        "id",
        "80:80",
        "after",
        "limit",
        "filter",
        "protocol",
        "tcp",
        "addr",
        "192.0.2.1",
        "name",
        "log",
        "level",
        "flow_list",
        "flow_close",
        "host_add",
        "forward_remove",
    ])
    .prop_map(str::to_owned);
    let leaf = prop_oneof![
        words.clone().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(4, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(words.clone(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes: Vec<u8>) {
        let _ = parse(&bytes);
    }

    #[test]
    fn what_is_understood_can_be_said_again(value in any_json()) {
        let line = serde_json::to_vec(&value).expect("encodes");
        match parse(&line) {
            Ok(request) => {
                let again = serde_json::to_vec(&request).expect("encodes");
                prop_assert_eq!(parse(&again), Ok(request));
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
