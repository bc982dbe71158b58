use proptest::prelude::*;

use super::*;

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 4]>().prop_map(|bytes| Digest::of(&bytes))
}

fn number() -> impl Strategy<Value = f64> {
    use proptest::num::f64::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
    POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO
}

fn ingredient() -> impl Strategy<Value = Ingredient> {
    let leaf = prop_oneof![
        Just(Ingredient::Absent),
        any::<bool>().prop_map(Ingredient::Bool),
        any::<i64>().prop_map(Ingredient::Int),
        any::<u64>().prop_map(Ingredient::from),
        number().prop_map(Ingredient::Float),
        "[ab]{0,3}".prop_map(Ingredient::Text),
        digest().prop_map(Ingredient::Digest),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Ingredient::List),
            prop::collection::btree_map("[ab]{0,3}", inner, 0..4).prop_map(Ingredient::Map),
        ]
    })
}

prop_compose! {
    fn action()(
        stage in "[ab]{0,3}",
        version in 0..3_u32,
        config in ingredient(),
        seed in proptest::option::of(any::<u64>()),
        inputs in prop::collection::btree_map("[ab]{0,3}", digest(), 0..4),
    ) -> Action {
        Action { stage, version, config, seed, inputs }
    }
}

/// The leaves of an ingredient, depth first, each replaced in turn by something else.
fn variations(ingredient: &Ingredient) -> Vec<Ingredient> {
    match ingredient {
        Ingredient::Absent => vec![Ingredient::Bool(false), Ingredient::List(Vec::new())],
        Ingredient::Bool(value) => vec![Ingredient::Bool(!value), Ingredient::Int(i64::from(*value))],
        Ingredient::Int(value) => {
            vec![Ingredient::Int(value ^ 1), Ingredient::Float(f64::from_bits(*value as u64))]
        }
        Ingredient::Unsigned(value) => {
            vec![Ingredient::from(value ^ 1), Ingredient::Int(*value as i64), value.to_string().into()]
        }
        Ingredient::Float(value) => {
            vec![Ingredient::Float(-value - 1.0), Ingredient::Int(value.to_bits() as i64)]
        }
        Ingredient::Text(value) => vec![Ingredient::Text(format!("{value}a")), Ingredient::List(Vec::new())],
        Ingredient::Digest(value) => vec![Ingredient::Digest(Digest::of(value.as_bytes()))],
        Ingredient::List(items) => {
            let mut all = vec![Ingredient::List([items.as_slice(), &[Ingredient::Absent]].concat())];
            for (index, item) in items.iter().enumerate() {
                for other in variations(item) {
                    let mut items = items.clone();
                    items[index] = other;
                    all.push(Ingredient::List(items));
                }
            }
            all
        }
        Ingredient::Map(fields) => {
            let mut longer = fields.clone();
            longer.insert("new".to_owned(), Ingredient::Absent);
            let mut all = vec![Ingredient::Map(longer)];
            for (name, value) in fields {
                for other in variations(value) {
                    let mut fields = fields.clone();
                    fields.insert(name.clone(), other);
                    all.push(Ingredient::Map(fields));
                }
                let mut fields = fields.clone();
                let value = fields.remove(name).unwrap();
                fields.insert(format!("{name}!"), value);
                all.push(Ingredient::Map(fields));
            }
            all
        }
    }
}

/// Every action that differs from `action` in one place.
fn neighbours(action: &Action) -> Vec<Action> {
    let with = |change: &dyn Fn(&mut Action)| {
        let mut other = action.clone();
        change(&mut other);
        other
    };
    let mut all = vec![
        with(&|other| other.stage.push('a')),
        with(&|other| other.version += 1),
        with(&|other| other.seed = other.seed.map_or(Some(0), |seed| Some(seed ^ 1))),
        with(&|other| other.inputs.extend([("new".to_owned(), Digest::of(b"new"))])),
    ];
    if action.seed.is_some() {
        all.push(with(&|other| other.seed = None));
    }
    all.extend(
        variations(&action.config).into_iter().map(|config| with(&|other| other.config = config.clone())),
    );
    for (name, digest) in &action.inputs {
        all.push(with(&|other| other.inputs.retain(|kept, _| kept != name)));
        all.push(with(&|other| other.inputs.extend([(name.clone(), Digest::of(digest.as_bytes()))])));
        all.push(with(&|other| {
            other.inputs.remove(name);
            other.inputs.insert(format!("{name}!"), *digest);
        }));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn keys_are_equal_exactly_when_actions_are(one in action(), other in action()) {
        prop_assert_eq!(one.key() == other.key(), one == other);
    }

    #[test]
    fn every_change_in_one_place_changes_the_key(action in action()) {
        for other in neighbours(&action) {
            prop_assert_ne!(other.key(), action.key(), "{:?}", other);
        }
    }

    #[test]
    fn order_of_fields_and_inputs_is_irrelevant(
        fields in prop::collection::btree_map("[ab]{0,3}", ingredient(), 0..6),
        inputs in prop::collection::btree_map("[ab]{0,3}", digest(), 0..6),
    ) {
        let make = |fields: Vec<(String, Ingredient)>, inputs: Vec<(String, Digest)>| Action {
            stage: "stage".to_owned(),
            version: 1,
            config: Ingredient::Map(fields.into_iter().collect()),
            seed: None,
            inputs: inputs.into_iter().collect(),
        };
        let forwards = make(fields.clone().into_iter().collect(), inputs.clone().into_iter().collect());
        let backwards = make(fields.into_iter().rev().collect(), inputs.into_iter().rev().collect());
        prop_assert_eq!(forwards.key(), backwards.key());
    }

    #[test]
    fn adjacent_texts_are_told_apart(text in "[ab/=,]{1,8}", one in 0..8_usize, other in 0..8_usize) {
        let (one, other) = (one % (text.len() + 1), other % (text.len() + 1));
        prop_assume!(one != other);
        let list = |at: usize| config(Ingredient::from(vec![&text[..at], &text[at..]]));
        prop_assert_ne!(list(one).key(), list(other).key());
        let field = |at: usize| config(Ingredient::map([(&text[..at], Ingredient::from(&text[at..]))]));
        prop_assert_ne!(field(one).key(), field(other).key());
        let stage = |at: usize| Action {
            stage: text[..at].to_owned(),
            ..config(Ingredient::from(&text[at..]))
        };
        prop_assert_ne!(stage(one).key(), stage(other).key());
    }

    #[test]
    fn json_keeps_the_key(action in action()) {
        let json = serde_json::to_string(&action).unwrap();
        let read: Action = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(read.key(), action.key());
        prop_assert_eq!(read, action);
    }
}

fn config(config: Ingredient) -> Action {
    Action { stage: "stage".to_owned(), version: 1, config, seed: None, inputs: BTreeMap::new() }
}

/// This key must never change: it would invalidate every stored result. A new encoding needs a new
/// context, and then a new line here.
#[test]
fn encoding_is_pinned() {
    let action = Action {
        stage: "sample".to_owned(),
        version: 3,
        config: Ingredient::map([
            ("temperature", Ingredient::from(0.7)),
            ("samples", Ingredient::from(16_u32)),
            ("stop", Ingredient::from(vec!["\n\n", "é"])),
            ("grammar", Ingredient::Absent),
            ("greedy", Ingredient::from(false)),
            ("tokenizer", Ingredient::from(Digest::of(b"tokenizer"))),
        ]),
        seed: Some(u64::MAX),
        inputs: BTreeMap::from([
            ("model".to_owned(), Digest::of(b"model")),
            ("queries".to_owned(), Digest::of(b"queries")),
        ]),
    };
    assert_eq!(action.key().to_string(), "17a09cee34a692f3d5203efeb85c0db32d7862ca03fa1eb56233753915ccc871");
    let smallest = config(Ingredient::Absent);
    assert_eq!(
        smallest.key().to_string(),
        "ad0ab45dbe33c3aa91b9ba43854a82ddd767fc82b46aaefb442fca1ffacce9f7"
    );
}

#[test]
fn negative_zero_is_zero() {
    let key = config(Ingredient::Float(0.0)).key();
    assert_eq!(config(Ingredient::Float(-0.0)).key(), key);
    assert_eq!(config(Ingredient::from(-0.0)).key(), key);
}

#[test]
fn whole_and_fractional_numbers_are_told_apart() {
    assert_ne!(config(Ingredient::from(1_i64)).key(), config(Ingredient::from(1.0)).key());
}

#[test]
fn key_reads_back_from_its_text() {
    let key = config(Ingredient::Absent).key();
    assert_eq!(key.to_string().parse::<ActionKey>().unwrap(), key);
    assert!(key.to_string().starts_with(&key.short()));
    assert!("key".parse::<ActionKey>().is_err());
}
