//! The six families of problems.

use super::WordProblem;
use super::dice::Dice;
use super::plan::{Flaw, LARGEST, Op, Operand, Plan};
use super::wording::{ITEMS, NAMES};
use Operand::Number;

/// A template of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// A number of things, then gains and losses.
    Chain,
    /// Wages, then gains and losses.
    Rate,
    /// Gains and losses, and one multiplication of all there is.
    Times,
    /// Two or three people, one relative to another.
    Compare,
    /// Prices, and change.
    Cost,
    /// Things shared evenly.
    Share,
}

/// All families; each is as likely as another.
pub(super) const ALL: [Family; 6] =
    [Family::Chain, Family::Rate, Family::Times, Family::Compare, Family::Cost, Family::Share];

/// How often the operation of a step is mistaken in families without rates of their own.
mod rates {
    pub(super) const GAIN: f64 = 0.2;
    pub(super) const LOSS: f64 = 0.4;
    pub(super) const TIMES: f64 = 0.6;
    pub(super) const SHARE: f64 = 0.35;
    pub(super) const MORE: f64 = 0.2;
    pub(super) const FEWER: f64 = 0.6;
    pub(super) const TIMES_AS_MANY: f64 = 0.5;
    pub(super) const PRICE: f64 = 0.35;
    pub(super) const CHANGE: f64 = 0.5;
}

/// A problem of that family with that many steps (1 to 4); `None` when the numbers drawn do not fit.
pub(super) fn draw(family: Family, steps: usize, dice: &mut Dice) -> Option<WordProblem> {
    let mut story = Story::default();
    match family {
        Family::Chain => chain(&mut story, steps, dice)?,
        Family::Rate => rate(&mut story, steps, dice)?,
        Family::Times => times(&mut story, steps, dice)?,
        Family::Compare => compare(&mut story, steps, dice)?,
        Family::Cost => cost(&mut story, steps, dice),
        Family::Share => share(&mut story, steps, dice)?,
    }
    let Story { sentences, plan } = story;
    debug_assert_eq!(plan.len(), steps, "{family:?}: {sentences:?}");
    plan.valid().then(|| WordProblem { family: family.name(), question: sentences.join(" "), plan })
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Rate => "rate",
            Self::Times => "times",
            Self::Compare => "compare",
            Self::Cost => "cost",
            Self::Share => "share",
        }
    }
}

/// A problem in the making.
#[derive(Debug, Default)]
struct Story {
    sentences: Vec<String>,
    plan: Plan,
}

impl Story {
    fn say(&mut self, sentence: impl Into<String>) {
        self.sentences.push(sentence.into());
    }

    /// The running value as a number, if it is in range.
    fn now(&self, value: Operand) -> Option<i64> {
        self.plan.value(value)
    }
}

/// Whether rates of misreading go by phrase or by operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Misread {
    ByPhrase,
    ByOperation,
}

const GAINS: [(&str, f64); 3] = [("buys {} more .", 0.10), ("finds {} .", 0.30), ("gets {} .", 0.25)];
const LOSSES: [(&str, f64); 3] = [("gives {} away .", 0.20), ("loses {} .", 0.25), ("sells {} .", 0.60)];

fn phrase(template: &str, number: i64) -> String {
    template.replace("{}", &number.to_string())
}

/// A gain or loss of 1 to 9.
fn event(story: &mut Story, value: Operand, misread: Misread, dice: &mut Dice) -> Option<Operand> {
    let amount = dice.number(1..=9);
    let loss = story.now(value)? >= amount && dice.chance(0.5);
    let (template, by_phrase) = dice.pick(if loss { &LOSSES } else { &GAINS });
    let rate = match misread {
        Misread::ByPhrase => by_phrase,
        Misread::ByOperation if loss => rates::LOSS,
        Misread::ByOperation => rates::GAIN,
    };
    story.say(phrase(template, amount));
    let op = if loss { Op::Subtract } else { Op::Add };
    Some(story.plan.step(op, value, Number(amount), Flaw::Event(rate)))
}

/// A gain or loss of several times a number: two steps.
fn grouped_event(story: &mut Story, value: Operand, dice: &mut Dice) -> Option<Operand> {
    let (groups, each) = (dice.number(2..=4), dice.number(2..=5));
    let gain = dice.chance(0.6) || story.now(value)? < groups * each;
    let (sentence, rate) = match (gain, dice.chance(0.5)) {
        (true, true) => (format!("buys {groups} boxes of {each} ."), 0.35),
        (true, false) => (format!("gets {each} from each of {groups} friends ."), 0.65),
        (false, true) => (format!("sells {groups} bags of {each} ."), 0.60),
        (false, false) => (format!("gives {each} to each of {groups} friends ."), 0.35),
    };
    story.say(sentence);
    let amount = story.plan.amount(Op::Multiply, Number(groups), Number(each), Flaw::None);
    let op = if gain { Op::Add } else { Op::Subtract };
    Some(story.plan.step(op, value, amount, Flaw::Grouped { rate, each }))
}

fn events(story: &mut Story, mut value: Operand, steps: usize, dice: &mut Dice) -> Option<()> {
    let end = story.plan.len() + steps;
    while story.plan.len() < end {
        let left = end - story.plan.len();
        value = if left >= 2 && dice.chance(0.5) {
            grouped_event(story, value, dice)?
        } else {
            event(story, value, Misread::ByPhrase, dice)?
        };
        story.now(value)?;
    }
    story.say(dice.pick(&["how many now ?", "find the number left ."]));
    Some(())
}

fn chain(story: &mut Story, steps: usize, dice: &mut Dice) -> Option<()> {
    let start = dice.number(2..=15);
    story.say(format!("{} has {start} {} .", dice.pick(&NAMES), dice.pick(&ITEMS)));
    events(story, Number(start), steps, dice)
}

fn rate(story: &mut Story, steps: usize, dice: &mut Dice) -> Option<()> {
    let (wage, time, name) = (dice.number(2..=6), dice.number(2..=5), dice.pick(&NAMES));
    story.say(if dice.chance(0.5) {
        format!("{name} earns {wage} a day for {time} days .")
    } else {
        format!("{time} hours {name} works for {wage} an hour .")
    });
    let value = story.plan.amount(Op::Multiply, Number(wage), Number(time), Flaw::None);
    events(story, value, steps - 1, dice)
}

fn times(story: &mut Story, steps: usize, dice: &mut Dice) -> Option<()> {
    let start = dice.number(2..=9);
    story.say(format!("{} has {start} {} .", dice.pick(&NAMES), dice.pick(&ITEMS)));
    let position = dice.below(steps);
    let mut value = Number(start);
    for step in 0..steps {
        value = if step == position {
            let factor = dice.number(2..=3);
            if story.now(value)? * factor > 40 {
                return None;
            }
            story.say(match (dice.chance(0.5), factor) {
                (true, 2) => "this doubles .".to_owned(),
                (true, _) => "this triples .".to_owned(),
                (false, _) => format!("this grows {factor} times ."),
            });
            story.plan.step(Op::Multiply, value, Number(factor), Flaw::Other(rates::TIMES, Op::Add))
        } else {
            event(story, value, Misread::ByOperation, dice)?
        };
        story.now(value)?;
    }
    story.say(dice.pick(&["how many now ?", "find the number left ."]));
    Some(())
}

/// What one person has, relative to another.
fn relative(story: &mut Story, who: &str, other: (&str, Operand), dice: &mut Dice) -> Operand {
    let (other, value) = other;
    let (op, amount, flaw) = match dice.below(3) {
        0 => {
            let amount = dice.number(1..=9);
            story.say(format!("{who} has {amount} more than {other} ."));
            (Op::Add, amount, Flaw::Other(rates::MORE, Op::Subtract))
        }
        1 => {
            let amount = dice.number(1..=9);
            story.say(format!("{who} has {amount} fewer than {other} ."));
            (Op::Subtract, amount, Flaw::Other(rates::FEWER, Op::Add))
        }
        _ => {
            let factor = dice.number(2..=3);
            story.say(format!("{who} has {factor} times as many as {other} ."));
            (Op::Multiply, factor, Flaw::Other(rates::TIMES_AS_MANY, Op::Add))
        }
    };
    story.plan.amount(op, value, Number(amount), flaw)
}

fn compare(story: &mut Story, steps: usize, dice: &mut Dice) -> Option<()> {
    let mut names = NAMES;
    dice.shuffle(&mut names);
    let [first, second, third, ..] = names;
    let start = dice.number(3..=12);
    story.say(format!("{first} has {start} {} .", dice.pick(&ITEMS)));
    let other = relative(story, second, (first, Number(start)), dice);
    story.now(other)?;
    if steps == 1 {
        story.say(format!("how many does {second} have ?"));
        return Some(());
    }
    let last = (steps == 4).then(|| {
        let whom = dice.pick(&[(first, Number(start)), (second, other)]);
        relative(story, third, whom, dice)
    });
    let mut total = story.plan.step(Op::Add, Number(start), other, Flaw::None);
    if let Some(last) = last {
        total = story.plan.step(Op::Add, total, last, Flaw::None);
    }
    if steps == 3 {
        let amount = dice.number(1..=9);
        let gain = dice.chance(0.5);
        let (sentence, op, rate) = if gain {
            (format!("they buy {amount} more ."), Op::Add, rates::GAIN)
        } else {
            (format!("they lose {amount} ."), Op::Subtract, rates::LOSS)
        };
        story.say(sentence);
        total = story.plan.step(op, total, Number(amount), Flaw::Event(rate));
    }
    story.say(dice.pick(&["how many in all ?", "find the total ."]));
    story.now(total).map(drop)
}

fn cost(story: &mut Story, steps: usize, dice: &mut Dice) {
    let mut items = ITEMS;
    dice.shuffle(&mut items);
    let name = dice.pick(&NAMES);
    let price = Flaw::Other(rates::PRICE, Op::Add);
    let (count, each) = (dice.number(2..=5), dice.number(2..=5));
    story.say(if dice.chance(0.5) {
        format!("{name} buys {count} {} for {each} each .", items[0])
    } else {
        format!("{count} {} cost {each} each .", items[0])
    });
    let mut total = story.plan.amount(Op::Multiply, Number(count), Number(each), price);
    if steps >= 3 {
        let (count, each) = (dice.number(2..=5), dice.number(2..=5));
        story.say(format!("{count} {} cost {each} each .", items[1]));
        let more = story.plan.amount(Op::Multiply, Number(count), Number(each), price);
        total = story.plan.step(Op::Add, total, more, Flaw::None);
    }
    if steps == 2 || steps == 4 {
        let paid = (story.now(total).unwrap_or(LARGEST) + dice.number(1..=9)).min(LARGEST);
        story.say(format!("{name} pays {paid} ."));
        story.plan.step(Op::Subtract, Number(paid), total, Flaw::Other(rates::CHANGE, Op::Add));
        story.say("find the change .");
    } else {
        story.say("find the cost .");
    }
}

fn share(story: &mut Story, steps: usize, dice: &mut Dice) -> Option<()> {
    let (friends, each) = (dice.number(2..=4), dice.number(2..=8));
    // One step shares, one may follow it, the others come before it.
    let after = match steps {
        1 => false,
        2 => dice.chance(0.5),
        _ => true,
    };
    let before = steps - 1 - usize::from(after);
    let mut changes = Vec::with_capacity(before);
    let mut start = friends * each;
    for _ in 0..before {
        let (amount, loss) = (dice.number(1..=9), dice.chance(0.5));
        start += if loss { amount } else { -amount };
        changes.push((amount, loss));
    }
    if start < 2 {
        return None;
    }
    story.say(format!("{} has {start} {} .", dice.pick(&NAMES), dice.pick(&ITEMS)));
    let mut value = Number(start);
    for (amount, loss) in changes {
        let (op, templates, rate) =
            if loss { (Op::Subtract, &LOSSES, rates::LOSS) } else { (Op::Add, &GAINS, rates::GAIN) };
        story.say(phrase(dice.pick(templates).0, amount));
        value = story.plan.step(op, value, Number(amount), Flaw::Event(rate));
    }
    story.say(format!("{friends} friends share all ."));
    value = story.plan.step(Op::Divide, value, Number(friends), Flaw::Other(rates::SHARE, Op::Subtract));
    if after {
        let amount = dice.number(1..=9);
        let loss = each >= amount && dice.chance(0.5);
        let (verb, op, rate) =
            if loss { ("loses", Op::Subtract, rates::LOSS) } else { ("gets", Op::Add, rates::GAIN) };
        story.say(format!("each {verb} {amount} ."));
        story.plan.step(op, value, Number(amount), Flaw::Event(rate));
    }
    story.say("find each part .");
    Some(())
}
