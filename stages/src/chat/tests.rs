use serde::Deserialize;

use super::*;

/// What transformers made of a conversation: `tests/chat/make.py`.
#[derive(Deserialize)]
struct Case {
    messages: Vec<Value>,
    variables: BTreeMap<String, Value>,
    text: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Expected {
    tokens: Map<String, Value>,
    cases: Vec<Case>,
}

/// A model of which nothing but this is there.
fn model(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn templates_render_as_in_transformers() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat");
    let expected = std::fs::read_to_string(home.join("expected.json")).unwrap();
    let expected: BTreeMap<String, Expected> = serde_json::from_str(&expected).unwrap();
    assert_eq!(expected.len(), 10);
    for (name, Expected { tokens, cases }) in expected {
        let text = std::fs::read_to_string(home.join(format!("{name}.jinja"))).unwrap();
        let mut config = tokens;
        drop(config.insert("chat_template".to_owned(), json!(text)));
        let chat = Chat::new(Some(model(&json!(config)).path()), None).unwrap();
        for (number, case) in cases.iter().enumerate() {
            let found = chat.render_messages(&case.messages, None, &case.variables);
            match (&case.text, &case.error) {
                (Some(text), _) => assert_eq!(&found.unwrap(), text, "{name}, case {number}"),
                (None, error) => {
                    let message = found.unwrap_err().message;
                    assert!(message.contains(error.as_deref().unwrap()), "{name}, case {number}: {message}");
                }
            }
        }
    }
}

#[test]
fn a_template_is_found_in_either_place_and_one_of_ones_own_goes_first() {
    let none = BTreeMap::new();
    let render = |folder: Option<&Path>, template: Option<&str>| {
        Chat::new(folder, template).and_then(|chat| chat.render(Some("S"), "P", &none))
    };
    let list = json!({"bos_token": {"content": "<b>"}, "chat_template": [
        {"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ bos_token }}{{ messages|length }}"}]});
    let folder = model(&list);
    assert_eq!(render(Some(folder.path()), None).unwrap(), "<b>2");
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages[1].content }}\n").unwrap();
    assert_eq!(render(Some(folder.path()), None).unwrap(), "P");
    assert_eq!(
        render(Some(folder.path()), Some("{{ bos_token }}Q: {{ prompt }}\nA:")).unwrap(),
        "<b>Q: P\nA:"
    );
    assert_eq!(render(None, Some("{{ prompt }}")).unwrap(), "P");
}

#[test]
fn line_breaks_of_any_kind_are_one() {
    let chat = Chat::new(None, Some("a\r\n{% if true %}\r\nb\rc{% endif %}\r\n")).unwrap();
    assert_eq!(chat.render(None, "P", &BTreeMap::new()).unwrap(), "a\nb\nc");
}

#[test]
fn the_date_is_the_one_that_is_given() {
    let template = "{{ strftime_now('%Y-%m-%d') if strftime_now is defined else 'none' }}";
    let chat = Chat::new(None, Some(template)).unwrap();
    assert_eq!(chat.render(None, "P", &BTreeMap::new()).unwrap(), "none");
    let given = BTreeMap::from([("date_string".to_owned(), json!("1 Jan 2026"))]);
    assert_eq!(chat.render(None, "P", &given).unwrap(), "1 Jan 2026");
}

#[test]
fn what_a_template_cannot_do_is_said_with_its_line() {
    let fails = |template: &str, expected: &str| {
        let rendered =
            Chat::new(None, Some(template)).and_then(|chat| chat.render(None, "P", &BTreeMap::new()));
        let error = rendered.unwrap_err();
        assert!(error.message.contains(expected), "{error}");
    };
    fails("a\n{% if %}", "line 2 of the template");
    fails("{{ raise_exception('no system message') }}", "the chat template fails: no system message");
    fails("a\n{{ strftime_now('%Y') }}", "asks for today's date");
    let base = model(&json!({"eos_token": "</s>"}));
    let error = Chat::new(Some(base.path()), None).unwrap_err();
    assert!(error.message.contains("has no chat template") && error.hint.unwrap().contains("{{ prompt }}"));
}
