//! Units after a number. Known ones are converted; unknown words ("apples") only say what is counted.

use super::rational::Rational;

/// What a known unit measures: powers of length, time and mass, and something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Measure {
    length: i8,
    time: i8,
    mass: i8,
    other: Other,
}

/// What is neither length, time nor mass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Other {
    Nothing,
    Money(Currency),
    Angle,
    Percent,
    Fahrenheit,
    /// By its place in [`OPAQUE`].
    Opaque(usize),
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

const LENGTH: Measure = Measure { length: 1, ..Measure::NOTHING };
const VOLUME: Measure = Measure { length: 3, ..Measure::NOTHING };
const TIME: Measure = Measure { time: 1, ..Measure::NOTHING };
const MASS: Measure = Measure { mass: 1, ..Measure::NOTHING };
const SPEED: Measure = Measure { length: 1, time: -1, ..Measure::NOTHING };

impl Measure {
    pub(super) const NOTHING: Self = Self { length: 0, time: 0, mass: 0, other: Other::Nothing };
    pub(super) const ANGLE: Self = Self::of(Other::Angle);
    pub(super) const PERCENT: Self = Self::of(Other::Percent);
    pub(super) const FAHRENHEIT: Self = Self::of(Other::Fahrenheit);

    const fn of(other: Other) -> Self {
        Self { other, ..Self::NOTHING }
    }

    const fn money(currency: Currency) -> Self {
        Self::of(Other::Money(currency))
    }

    /// Of `a` times a power of `b`.
    fn times(self, other: Self, power: i8) -> Option<Self> {
        let sum = |a: i8, b: i8| a.checked_add(b.checked_mul(power)?);
        let kind = match (self.other, other.other) {
            (kind, Other::Nothing) => kind,
            (Other::Nothing, kind) if power == 1 => kind,
            _ => return None,
        };
        Some(Self {
            length: sum(self.length, other.length)?,
            time: sum(self.time, other.time)?,
            mass: sum(self.mass, other.mass)?,
            other: kind,
        })
    }
}

/// What a unit measures, and how large it is.
pub(super) type Known = (Measure, Rational);

/// A unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Unit {
    /// `None` when it is not known.
    pub(super) known: Option<Known>,
    /// The amount of money of one that is paid for something: the dollar of "dollars per hour".
    money: Option<Known>,
    /// Whether more words follow it: "years old".
    loose: bool,
    /// Whether it is a word for what is counted: "apples".
    counts: bool,
    /// Its one letter, which could also be a variable.
    pub(super) letter: Option<char>,
}

impl Unit {
    pub(super) const UNKNOWN: Self =
        Self { known: None, money: None, loose: false, counts: false, letter: None };

    pub(super) fn of(measure: Measure, size: Rational) -> Self {
        Self { known: Some((measure, size)), ..Self::UNKNOWN }
    }

    /// The unit that a letter is after a number and a space: `5 m`.
    pub(super) fn of_letter(letter: char) -> Option<Self> {
        Some(Self { known: Some(known_letter(letter)?), letter: Some(letter), ..Self::UNKNOWN })
    }

    pub(super) fn measure(self) -> Option<Measure> {
        self.known.map(|(measure, _)| measure)
    }

    pub(super) fn is_money(self) -> bool {
        self.measure().is_some_and(|measure| matches!(measure.other, Other::Money(_)))
    }

    /// The unit of an amount of this currency before a number with that unit after it: `\$12` "per hour".
    pub(super) fn then(self, after: Self) -> Self {
        let (Some(money), Some((measure, size))) = (self.known, after.known) else {
            return Self { loose: true, ..self };
        };
        if matches!(measure.other, Other::Money(_)) {
            return after;
        }
        let known = product(money, (measure, size), 1);
        Self { known, money: Some(money), loose: after.loose || known.is_none(), ..Self::UNKNOWN }
    }

    /// What both are as multiples of, if amounts of them can be compared; none where one is unknown and says
    /// nothing else.
    pub(super) fn comparable(self, other: Self) -> Comparable {
        match (self.known, other.known) {
            (Some(known), Some(other_known)) => {
                let alike = |(a, size): Known, (b, other_size): Known| {
                    (a == b).then_some(Comparable::Sizes(size, other_size))
                };
                let pound = |(a, _): Known, (b, size): Known| {
                    let mass = lookup("pound").and_then(|unit| unit.known);
                    a.other == Other::Money(Currency::Pound) && Some((b, size)) == mass
                };
                // What an amount of money is paid for may be left out.
                alike(known, other_known)
                    .or_else(|| alike(self.money?, other_known))
                    .or_else(|| alike(known, other.money?))
                    .or_else(|| {
                        let pounds = pound(known, other_known) || pound(other_known, known);
                        pounds.then_some(Comparable::Values)
                    })
                    .unwrap_or(Comparable::Never)
            }
            (Some(_), None) if other.counts && !self.loose => Comparable::Never,
            (None, Some(_)) if self.counts && !other.loose => Comparable::Never,
            _ => Comparable::Values,
        }
    }
}

/// How amounts of two units compare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Comparable {
    Never,
    /// As if they had none.
    Values,
    /// As multiples of these.
    Sizes(Rational, Rational),
}

/// The unit that a letter can stand for.
pub(super) fn known_letter(letter: char) -> Option<Known> {
    let letter = matches!(letter, 'm' | 's' | 'g' | 'h' | 'L' | 'l').then_some(letter)?;
    lookup(letter.encode_utf8(&mut [0; 4]))?.known
}

/// A unit times a power of another one.
pub(super) fn product((measure, size): Known, (other, other_size): Known, power: i8) -> Option<Known> {
    let size = size.times(other_size.power(i128::from(power))?)?;
    Some((measure.times(other, power)?, size))
}

/// Reads the words of a unit: "square feet", "miles per hour".
#[derive(Debug, Default)]
pub(super) struct Phrase {
    state: State,
    /// Of the units before the last one.
    before: Option<Known>,
    last: Option<Known>,
    first: Option<Known>,
    power: i8,
    /// That a word gives the next unit: "square".
    next_power: Option<i8>,
    /// Whether "per", a slash or a sign of multiplication came last.
    joined: bool,
    per: bool,
    counts: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    /// Nothing but known units so far.
    Known,
    /// And then other words.
    Loose,
    Unknown,
}

/// Words that say nothing about what is counted.
const REMARKS: &[&str] = &[
    "unit",
    "units",
    "total",
    "left",
    "altogether",
    "each",
    "remaining",
    "more",
    "only",
    "away",
    "apart",
    "long",
    "old",
    "high",
    "wide",
    "tall",
    "deep",
    "exactly",
    "approximately",
    "times",
    "sq",
    "squared",
    "is",
    "was",
    "approx",
];

impl Phrase {
    pub(super) fn started(&self) -> bool {
        self.state != State::Start
    }

    /// The text of several words.
    pub(super) fn text(&mut self, text: &str) {
        let mut rest = text.strip_suffix(" and").unwrap_or(text);
        while let Some(first) = rest.chars().next() {
            let length = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
            match first {
                '/' => self.per(),
                '1'..='9' => self.power(first.to_digit(10).and_then(|digit| i8::try_from(digit).ok())),
                '²' => self.power(Some(2)),
                '³' => self.power(Some(3)),
                '·' | '⋅' => self.joined = true,
                _ if length > 0 => self.word(&rest[..length]),
                _ => {}
            }
            rest = &rest[length.max(first.len_utf8())..];
        }
    }

    fn word(&mut self, word: &str) {
        match word {
            "per" => return self.per(),
            "squared" if self.started() => return self.power(Some(2)),
            "cubed" if self.started() => return self.power(Some(3)),
            _ => {}
        }
        if let Some(power) = power_of(word) {
            self.next_power = Some(power);
            return;
        }
        let known = lookup(word).and_then(|unit| unit.known);
        match (self.state, known) {
            (State::Start, Some(known)) => self.unit(known),
            (State::Known, Some(known)) if self.joined => self.unit(known),
            // "degrees Celsius"
            (State::Known, Some((Measure::ANGLE | Measure::FAHRENHEIT, _)))
                if self.last.is_some_and(|(measure, _)| measure == Measure::ANGLE) =>
            {
                self.last = known;
            }
            (State::Start, None) => {
                self.state = State::Unknown;
                self.counts = !REMARKS.contains(&word);
            }
            (State::Known, _) => self.state = State::Loose,
            (State::Unknown, _) => self.counts = false,
            (State::Loose, _) => {}
        }
        (self.joined, self.per, self.next_power) = (false, false, None);
    }

    /// One more known unit.
    pub(super) fn unit(&mut self, known: Known) {
        let sign = if self.per { -1 } else { 1 };
        if self.started() {
            self.before = self.whole();
            self.state = if self.before.is_some() { State::Known } else { State::Unknown };
        } else {
            self.state = State::Known;
            self.before = Some((Measure::NOTHING, Rational::ONE));
            self.first = (sign == 1).then_some(known);
        }
        self.last = Some(known);
        self.power = sign * self.next_power.unwrap_or(1);
        (self.joined, self.per, self.next_power) = (false, false, None);
    }

    pub(super) fn per(&mut self) {
        (self.per, self.joined) = (true, true);
    }

    pub(super) fn times(&mut self) {
        self.joined = true;
    }

    /// A power after a unit; `None` when it is none that units have.
    pub(super) fn power(&mut self, power: Option<i8>) {
        let raised = power.filter(|power| (-4..=4).contains(power) && *power != 0);
        match raised.and_then(|power| self.power.checked_mul(power)) {
            Some(power) => self.power = power,
            None => self.state = State::Unknown,
        }
    }

    fn whole(&self) -> Option<Known> {
        product(self.before?, self.last?, self.power)
    }

    pub(super) fn finish(self) -> Unit {
        let known = match self.state {
            State::Known | State::Loose => self.whole(),
            State::Start | State::Unknown => None,
        };
        let money = self.first.filter(|(measure, _)| matches!(measure.other, Other::Money(_)));
        // "Miles per gallon" is known, "miles per trip" is not quite.
        let loose = self.state == State::Loose || self.joined;
        Unit { known, money, loose, counts: self.counts && self.state == State::Unknown, letter: None }
    }
}

/// Names, what they measure, and their size as a fraction of the measure's base unit (mm, s, g, cent).
const UNITS: &[(&str, Measure, i128, i128)] = &[
    ("mm", LENGTH, 1, 1),
    ("millimeter", LENGTH, 1, 1),
    ("millimetre", LENGTH, 1, 1),
    ("cm", LENGTH, 10, 1),
    ("cms", LENGTH, 10, 1),
    ("centimeter", LENGTH, 10, 1),
    ("centimetre", LENGTH, 10, 1),
    ("dm", LENGTH, 100, 1),
    ("m", LENGTH, 1000, 1),
    ("meter", LENGTH, 1000, 1),
    ("metre", LENGTH, 1000, 1),
    ("km", LENGTH, 1_000_000, 1),
    ("kms", LENGTH, 1_000_000, 1),
    ("kilometer", LENGTH, 1_000_000, 1),
    ("kilometre", LENGTH, 1_000_000, 1),
    ("in", LENGTH, 254, 10),
    ("inch", LENGTH, 254, 10),
    ("inches", LENGTH, 254, 10),
    ("ft", LENGTH, 3048, 10),
    ("foot", LENGTH, 3048, 10),
    ("feet", LENGTH, 3048, 10),
    ("yd", LENGTH, 9144, 10),
    ("yds", LENGTH, 9144, 10),
    ("yard", LENGTH, 9144, 10),
    ("mi", LENGTH, 1_609_344, 1),
    ("mile", LENGTH, 1_609_344, 1),
    ("s", TIME, 1, 1),
    ("sec", TIME, 1, 1),
    ("secs", TIME, 1, 1),
    ("second", TIME, 1, 1),
    ("min", TIME, 60, 1),
    ("mins", TIME, 60, 1),
    ("minute", TIME, 60, 1),
    ("h", TIME, 3600, 1),
    ("hr", TIME, 3600, 1),
    ("hrs", TIME, 3600, 1),
    ("hour", TIME, 3600, 1),
    ("day", TIME, 86_400, 1),
    ("week", TIME, 604_800, 1),
    ("month", TIME, 2_629_746, 1),
    ("year", TIME, 31_556_952, 1),
    ("yr", TIME, 31_556_952, 1),
    ("yrs", TIME, 31_556_952, 1),
    ("mg", MASS, 1, 1000),
    ("g", MASS, 1, 1),
    ("gram", MASS, 1, 1),
    ("kg", MASS, 1000, 1),
    ("kgs", MASS, 1000, 1),
    ("kilogram", MASS, 1000, 1),
    ("kilo", MASS, 1000, 1),
    ("lb", MASS, 45_359_237, 100_000),
    ("lbs", MASS, 45_359_237, 100_000),
    ("pound", MASS, 45_359_237, 100_000),
    ("ounce", MASS, 45_359_237, 1_600_000),
    ("oz", MASS, 45_359_237, 1_600_000),
    ("ton", MASS, 1_000_000, 1),
    ("ml", VOLUME, 1000, 1),
    ("milliliter", VOLUME, 1000, 1),
    ("millilitre", VOLUME, 1000, 1),
    ("cc", VOLUME, 1000, 1),
    ("cl", VOLUME, 10_000, 1),
    ("dl", VOLUME, 100_000, 1),
    ("l", VOLUME, 1_000_000, 1),
    ("liter", VOLUME, 1_000_000, 1),
    ("litre", VOLUME, 1_000_000, 1),
    ("gal", VOLUME, 3_785_411_784, 1000),
    ("gallon", VOLUME, 3_785_411_784, 1000),
    ("qt", VOLUME, 3_785_411_784, 4000),
    ("quart", VOLUME, 3_785_411_784, 4000),
    ("pt", VOLUME, 3_785_411_784, 8000),
    ("pint", VOLUME, 3_785_411_784, 8000),
    ("cup", VOLUME, 3_785_411_784, 16_000),
    ("tbsp", VOLUME, 3_785_411_784, 256_000),
    ("tablespoon", VOLUME, 3_785_411_784, 256_000),
    ("tsp", VOLUME, 3_785_411_784, 768_000),
    ("teaspoon", VOLUME, 3_785_411_784, 768_000),
    ("mph", SPEED, 1_609_344, 3600),
    ("mpg", Measure { length: -2, ..Measure::NOTHING }, 1_609_344_000, 3_785_411_784),
    ("kph", SPEED, 1_000_000, 3600),
    ("kmh", SPEED, 1_000_000, 3600),
    ("kmph", SPEED, 1_000_000, 3600),
    ("dollar", Measure::money(Currency::Dollar), 100, 1),
    ("usd", Measure::money(Currency::Dollar), 100, 1),
    ("buck", Measure::money(Currency::Dollar), 100, 1),
    ("cent", Measure::money(Currency::Dollar), 1, 1),
    ("euro", Measure::money(Currency::Euro), 1, 1),
    ("eur", Measure::money(Currency::Euro), 1, 1),
    ("yen", Measure::money(Currency::Yen), 1, 1),
    ("yuan", Measure::money(Currency::Yuan), 1, 1),
    ("rs", Measure::money(Currency::Rupee), 1, 1),
    ("rupee", Measure::money(Currency::Rupee), 1, 1),
    ("percent", Measure::PERCENT, 1, 1),
    ("pct", Measure::PERCENT, 1, 1),
    ("percentage", Measure::PERCENT, 1, 1),
    ("degree", Measure::ANGLE, 1, 1),
    ("deg", Measure::ANGLE, 1, 1),
    ("celsius", Measure::ANGLE, 1, 1),
    ("fahrenheit", Measure::FAHRENHEIT, 1, 1),
];

/// Units that have no size of their own here, but whose short names are not products of variables.
const OPAQUE: &[&str] = &[
    "hz", "kj", "kw", "kwh", "mw", "ev", "gb", "mb", "kb", "tb", "rpm", "amu", "mol", "pa", "kpa", "ohm",
    "cal", "kcal", "pm", "am",
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
        Some((_, measure, size, of)) => Rational::new(*size, *of).map(|size| Unit::of(*measure, size)),
        None => {
            let at = OPAQUE.iter().position(|name| *name == word)?;
            Some(Unit::of(Measure::of(Other::Opaque(at)), Rational::ONE))
        }
    }
}

/// The power that a word before a unit gives it.
pub(super) fn power_of(word: &str) -> Option<i8> {
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
    Some(Unit::of(Measure::money(currency), Rational::integer(size)))
}
