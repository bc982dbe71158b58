//! Units after a number. Known ones are converted; unknown words ("apples") only say what is counted.

use super::rational::Rational;

/// What a known unit measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// Length, area and volume, by the exponent.
    Length(u8),
    Time,
    Mass,
    Money(Currency),
    Angle,
    Percent,
    Fahrenheit,
}

/// Amounts of different currencies are different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Currency {
    Dollar,
    Euro,
    Pound,
    Yen,
    Yuan,
    Rupee,
}

/// A unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Unit {
    /// What it measures and how large it is; `None` when it is not known.
    pub(super) known: Option<(Measure, Rational)>,
    /// Its one letter, which could also be a variable.
    pub(super) letter: Option<char>,
}

impl Unit {
    pub(super) const UNKNOWN: Self = Self { known: None, letter: None };

    pub(super) fn of(measure: Measure, size: Rational) -> Self {
        Self { known: Some((measure, size)), letter: None }
    }

    /// The unit that a letter is after a number and a space: `5 m`.
    pub(super) fn of_letter(letter: char) -> Option<Self> {
        let known = matches!(letter, 'm' | 's' | 'g' | 'h' | 'L' | 'l')
            .then(|| lookup(letter.encode_utf8(&mut [0; 4])))?;
        Some(Self { letter: Some(letter), ..known.unwrap_or(Self::UNKNOWN) })
    }

    pub(super) fn measure(self) -> Option<Measure> {
        self.known.map(|(measure, _)| measure)
    }

    /// `cm` to the second power; only lengths have powers.
    pub(super) fn power(self, exponent: u8) -> Self {
        match self.known {
            Some((Measure::Length(1), scale)) if (1..=3).contains(&exponent) => {
                let known = scale.power(i128::from(exponent)).map(|scale| (Measure::Length(exponent), scale));
                Self { known, letter: None }
            }
            Some(_) if exponent == 1 => self,
            _ => Self::UNKNOWN,
        }
    }
}

/// Names, what they measure, and their size as a fraction of the measure's base unit (mm, s, g, cent).
const UNITS: &[(&str, Measure, i128, i128)] = &[
    ("mm", Measure::Length(1), 1, 1),
    ("millimeter", Measure::Length(1), 1, 1),
    ("millimetre", Measure::Length(1), 1, 1),
    ("cm", Measure::Length(1), 10, 1),
    ("cms", Measure::Length(1), 10, 1),
    ("centimeter", Measure::Length(1), 10, 1),
    ("centimetre", Measure::Length(1), 10, 1),
    ("dm", Measure::Length(1), 100, 1),
    ("m", Measure::Length(1), 1000, 1),
    ("meter", Measure::Length(1), 1000, 1),
    ("metre", Measure::Length(1), 1000, 1),
    ("km", Measure::Length(1), 1_000_000, 1),
    ("kms", Measure::Length(1), 1_000_000, 1),
    ("kilometer", Measure::Length(1), 1_000_000, 1),
    ("kilometre", Measure::Length(1), 1_000_000, 1),
    ("in", Measure::Length(1), 254, 10),
    ("inch", Measure::Length(1), 254, 10),
    ("inches", Measure::Length(1), 254, 10),
    ("ft", Measure::Length(1), 3048, 10),
    ("foot", Measure::Length(1), 3048, 10),
    ("feet", Measure::Length(1), 3048, 10),
    ("yd", Measure::Length(1), 9144, 10),
    ("yds", Measure::Length(1), 9144, 10),
    ("yard", Measure::Length(1), 9144, 10),
    ("mi", Measure::Length(1), 1_609_344, 1),
    ("mile", Measure::Length(1), 1_609_344, 1),
    ("s", Measure::Time, 1, 1),
    ("sec", Measure::Time, 1, 1),
    ("secs", Measure::Time, 1, 1),
    ("second", Measure::Time, 1, 1),
    ("min", Measure::Time, 60, 1),
    ("mins", Measure::Time, 60, 1),
    ("minute", Measure::Time, 60, 1),
    ("h", Measure::Time, 3600, 1),
    ("hr", Measure::Time, 3600, 1),
    ("hrs", Measure::Time, 3600, 1),
    ("hour", Measure::Time, 3600, 1),
    ("day", Measure::Time, 86_400, 1),
    ("week", Measure::Time, 604_800, 1),
    ("month", Measure::Time, 2_629_746, 1),
    ("year", Measure::Time, 31_556_952, 1),
    ("yr", Measure::Time, 31_556_952, 1),
    ("yrs", Measure::Time, 31_556_952, 1),
    ("mg", Measure::Mass, 1, 1000),
    ("g", Measure::Mass, 1, 1),
    ("gram", Measure::Mass, 1, 1),
    ("kg", Measure::Mass, 1000, 1),
    ("kgs", Measure::Mass, 1000, 1),
    ("kilogram", Measure::Mass, 1000, 1),
    ("lb", Measure::Mass, 45_359_237, 100_000),
    ("lbs", Measure::Mass, 45_359_237, 100_000),
    ("ounce", Measure::Mass, 45_359_237, 1_600_000),
    ("oz", Measure::Mass, 45_359_237, 1_600_000),
    ("ton", Measure::Mass, 1_000_000, 1),
    ("dollar", Measure::Money(Currency::Dollar), 100, 1),
    ("usd", Measure::Money(Currency::Dollar), 100, 1),
    ("buck", Measure::Money(Currency::Dollar), 100, 1),
    ("cent", Measure::Money(Currency::Dollar), 1, 1),
    ("euro", Measure::Money(Currency::Euro), 1, 1),
    ("eur", Measure::Money(Currency::Euro), 1, 1),
    ("yen", Measure::Money(Currency::Yen), 1, 1),
    ("yuan", Measure::Money(Currency::Yuan), 1, 1),
    ("rupee", Measure::Money(Currency::Rupee), 1, 1),
    ("percent", Measure::Percent, 1, 1),
    ("pct", Measure::Percent, 1, 1),
    ("percentage", Measure::Percent, 1, 1),
    ("degree", Measure::Angle, 1, 1),
    ("deg", Measure::Angle, 1, 1),
];

/// Units that have no size of their own here, but whose short names are not products of variables.
const OPAQUE: &[&str] = &[
    "ml", "dl", "cl", "mph", "kph", "kmh", "km/h", "hz", "kj", "kw", "kwh", "mw", "ev", "gb", "mb", "kb",
    "tb", "rpm", "cc", "amu", "mol", "pa", "kpa", "ohm", "liter", "litre", "cal", "kcal", "gal", "qt", "pt",
    "rs", "pm", "am",
];

/// Looks a word up, in singular or plural.
pub(super) fn lookup(word: &str) -> Option<Unit> {
    let mut lower = [0_u8; 16];
    let bytes = lower.get_mut(..word.len())?;
    bytes.copy_from_slice(word.as_bytes());
    bytes.make_ascii_lowercase();
    let word = std::str::from_utf8(bytes).ok()?;
    let find = |word: &str| UNITS.iter().find(|(name, ..)| *name == word);
    let entry =
        find(word).or_else(|| word.strip_suffix('s').filter(|singular| singular.len() > 2).and_then(find));
    match entry {
        Some((_, measure, size, of)) => {
            Some(Unit { known: Rational::new(*size, *of).map(|scale| (*measure, scale)), letter: None })
        }
        None => OPAQUE.contains(&word).then_some(Unit::UNKNOWN),
    }
}

/// The power that a word before a unit gives it.
pub(super) fn power_of(word: &str) -> Option<u8> {
    match word {
        "square" | "Square" | "sq" => Some(2),
        "cubic" | "Cubic" | "cu" => Some(3),
        _ => None,
    }
}

/// The currency of a sign.
pub(super) fn currency(sign: char) -> Option<Unit> {
    let (currency, size) = match sign {
        '$' => (Currency::Dollar, 100),
        '¢' => (Currency::Dollar, 1),
        '€' => (Currency::Euro, 1),
        '£' => (Currency::Pound, 1),
        '¥' => (Currency::Yen, 1),
        '₹' => (Currency::Rupee, 1),
        _ => return None,
    };
    Some(Unit::of(Measure::Money(currency), Rational::integer(size)))
}
