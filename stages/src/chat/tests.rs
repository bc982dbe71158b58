use std::path::PathBuf;

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

/// The cases of a template, and the special tokens it may write.
#[derive(Deserialize)]
struct Template {
    tokens: Map<String, Value>,
    cases: Vec<Case>,
}

/// What transformers made of a template of one line.
#[derive(Deserialize)]
struct Expression {
    template: String,
    text: Option<String>,
}

/// The special tokens that transformers finds in a tokenizer's files.
#[derive(Deserialize)]
struct Special {
    config: Value,
    map: Option<Value>,
    text: String,
}

#[derive(Deserialize)]
struct Expected {
    templates: BTreeMap<String, Template>,
    expressions: Vec<Expression>,
    tokens: Vec<Special>,
}

/// The folder of the templates, and what is expected of them.
fn expected() -> (PathBuf, Expected) {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat");
    let expected = std::fs::read_to_string(home.join("expected.json")).unwrap();
    (home, serde_json::from_str(&expected).unwrap())
}

/// A model of which nothing but this is there.
fn model(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn templates_render_as_in_transformers() {
    let (home, Expected { templates, .. }) = expected();
    assert_eq!(templates.len(), 10);
    for (name, Template { tokens, cases }) in templates {
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
fn expressions_are_what_they_are_in_jinja() {
    let none = BTreeMap::new();
    let messages = [
        json!({"role": "system", "content": " Answer with a number. "}),
        json!({"role": "user", "content": "a"}),
    ];
    for Expression { template, text } in expected().1.expressions {
        let chat = Chat::new(None, Some(&template));
        let found = chat.and_then(|chat| chat.render_messages(&messages, None, &none));
        match text {
            Some(text) => assert_eq!(found.unwrap(), text, "{template}"),
            None => assert!(found.is_err(), "{template}: {found:?}"),
        }
    }
}

#[test]
fn special_tokens_are_found_where_transformers_finds_them() {
    let names = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];
    let template = names.map(|name| format!("{{{{ {name}_token }}}}")).join("|");
    for Special { config, map, text } in expected().1.tokens {
        let folder = model(&config);
        if let Some(map) = &map {
            std::fs::write(folder.path().join("special_tokens_map.json"), map.to_string()).unwrap();
        }
        let chat = Chat::new(Some(folder.path()), Some(&template)).unwrap();
        assert_eq!(chat.render(None, "P", &BTreeMap::new()).unwrap(), text, "{config} {map:?}");
    }
}

#[test]
fn what_is_given_goes_before_what_templates_are_told_anyway() {
    let chat = Chat::new(None, Some("{{ tools[0].name }}{{ documents is none }}{{ bos_token }}")).unwrap();
    let given = BTreeMap::from([
        ("tools".to_owned(), json!([{"name": "add"}])),
        ("bos_token".to_owned(), json!("<x>")),
    ]);
    assert_eq!(chat.render(None, "P", &given).unwrap(), "addTrue<x>");
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
    fails("{{ prompt|wordcount }}", "filter wordcount is unknown");
    fails("{{ prompt.encode() }}", "no method named encode");
    fails("{{ '1_000'|int }}", "underscores");
    fails("{{ 'É'.casefold() }}", "casefold is not known beyond ASCII");
    fails("{{ 'a'.ljust(1000000000) }}", "line 1");
    fails("{{ [1]|tojson(separators=',') }}", "line 1");
    fails("{{ raise_exception('no system message') }}", "the chat template fails: no system message");
    fails("a\n{{ strftime_now('%Y') }}", "asks for today's date");
    let base = model(&json!({"eos_token": "</s>"}));
    let error = Chat::new(Some(base.path()), None).unwrap_err();
    assert!(error.message.contains("has no chat template") && error.hint.unwrap().contains("{{ prompt }}"));
}
