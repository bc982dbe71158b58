//! Solutions: what is computed from what, in how many ways that can be written, and how it is misread.

use super::dice::Dice;

/// The largest number that may occur.
pub(super) const LARGEST: i64 = 60;
/// How often steps that do not depend on each other change places.
const REORDER: f64 = 0.35;
/// How often amounts are computed before they are used.
const AMOUNTS_FIRST: f64 = 0.35;
/// How often the operands of a sum or a product change places.
const COMMUTE: f64 = 0.3;
/// Of flawed gains and losses, the share that changes sign; the others are forgotten.
const FLIP: f64 = 0.85;
/// Of flawed gains and losses of several times a number, the share that forgets the multiplication.
const FORGET_TIMES: f64 = 0.7;
/// Attempts at a flawed solution whose numbers stay in range; after them the problem is read rightly.
const FLAW_ATTEMPTS: usize = 2;

/// An operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Add,
    Subtract,
    Multiply,
    Divide,
}

impl Op {
    /// The result, where it is a whole number in range.
    pub(super) fn apply(self, left: i64, right: i64) -> Option<i64> {
        let result = match self {
            Self::Add => left + right,
            Self::Subtract => left - right,
            Self::Multiply => left * right,
            Self::Divide if right != 0 && left % right == 0 => left / right,
            Self::Divide => return None,
        };
        (0..=LARGEST).contains(&result).then_some(result)
    }

    fn sign(self) -> char {
        match self {
            Self::Add => '+',
            Self::Subtract => '-',
            Self::Multiply => '*',
            Self::Divide => '/',
        }
    }

    fn is_move(self) -> bool {
        matches!(self, Self::Add | Self::Subtract)
    }

    fn opposite(self) -> Self {
        match self {
            Self::Add => Self::Subtract,
            Self::Subtract => Self::Add,
            Self::Multiply => Self::Divide,
            Self::Divide => Self::Multiply,
        }
    }
}

/// What an operation is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operand {
    /// A number of the question.
    Number(i64),
    /// The result of that line of the plan.
    Line(usize),
}

/// How a line may be misread, and how often.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Flaw {
    /// Never.
    None,
    /// A gain or loss whose sign is mistaken, or which is forgotten.
    Event(f64),
    /// A gain or loss of several times `each`, taken for one of `each`, or with its sign mistaken.
    Grouped { rate: f64, each: i64 },
    /// Another operation.
    Other(f64, Op),
}

/// One step of a solution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    pub(super) op: Op,
    pub(super) left: Operand,
    pub(super) right: Operand,
    pub(super) flaw: Flaw,
    /// Whether it computes an amount that another line uses, rather than going on from the last result.
    pub(super) amount: bool,
    /// What stands for its result when it was forgotten.
    forgotten: Option<Operand>,
}

/// The steps of a solution; each depends on earlier ones only, and the last gives the answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    lines: Vec<Line>,
}

impl Plan {
    /// Appends a step.
    pub(super) fn step(&mut self, op: Op, left: Operand, right: Operand, flaw: Flaw) -> Operand {
        self.lines.push(Line { op, left, right, flaw, amount: false, forgotten: None });
        Operand::Line(self.lines.len() - 1)
    }

    /// Appends a step that computes an amount.
    pub(super) fn amount(&mut self, op: Op, left: Operand, right: Operand, flaw: Flaw) -> Operand {
        let operand = self.step(op, left, right, flaw);
        self.lines.last_mut().expect("just appended").amount = true;
        operand
    }

    /// Number of steps.
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The result of an operand, if it and all it depends on are in range.
    pub(super) fn value(&self, operand: Operand) -> Option<i64> {
        match self.resolve(operand) {
            Operand::Number(number) => Some(number),
            Operand::Line(index) => {
                let line = &self.lines[index];
                line.op.apply(self.value(line.left)?, self.value(line.right)?)
            }
        }
    }

    /// Whether every result is in range.
    pub(super) fn valid(&self) -> bool {
        (0..self.len()).all(|index| self.value(Operand::Line(index)).is_some())
    }

    /// The answer; plans made by [`super::family`] have one.
    pub(super) fn answer(&self) -> i64 {
        self.value(Operand::Line(self.len() - 1)).expect("results were checked when the problem was made")
    }

    /// A correct solution, written in one of its many ways.
    pub(super) fn solution(&self, dice: &mut Dice) -> String {
        let mut plan = self.clone();
        let reorder = dice.chance(REORDER);
        if reorder {
            plan.reorder_moves(dice);
        }
        let order = plan.order(reorder, dice);
        plan.write(&order, dice)
    }

    /// A solution in which phrases may be misread.
    pub(super) fn flawed_solution(&self, dice: &mut Dice) -> String {
        for _ in 0..FLAW_ATTEMPTS {
            let misread = self.misread(dice);
            if misread.valid() {
                return misread.solution(dice);
            }
        }
        self.solution(dice)
    }

    fn misread(&self, dice: &mut Dice) -> Self {
        let mut plan = self.clone();
        for index in 0..plan.len() {
            let line = plan.lines[index];
            match line.flaw {
                Flaw::Event(rate) if dice.chance(rate) => {
                    if dice.chance(FLIP) || plan.len() == 1 {
                        plan.lines[index].op = line.op.opposite();
                    } else {
                        plan.lines[index].forgotten = Some(line.left);
                    }
                }
                Flaw::Grouped { rate, each } if dice.chance(rate) => match line.right {
                    Operand::Line(product) if dice.chance(FORGET_TIMES) => {
                        plan.lines[product].forgotten = Some(Operand::Number(each));
                    }
                    _ => plan.lines[index].op = line.op.opposite(),
                },
                Flaw::Other(rate, op) if dice.chance(rate) => plan.lines[index].op = op,
                Flaw::None | Flaw::Event(_) | Flaw::Grouped { .. } | Flaw::Other(..) => {}
            }
        }
        plan
    }

    /// What an operand stands for when lines were forgotten.
    fn resolve(&self, operand: Operand) -> Operand {
        match operand {
            Operand::Line(index) => match self.lines[index].forgotten {
                Some(instead) => self.resolve(instead),
                None => operand,
            },
            Operand::Number(_) => operand,
        }
    }

    fn uses(&self, index: usize) -> usize {
        let live = self.lines.iter().filter(|line| line.forgotten.is_none());
        live.flat_map(|line| [line.left, line.right])
            .filter(|operand| self.resolve(*operand) == Operand::Line(index))
            .count()
    }

    /// Puts gains and losses that follow each other in another order, if all results stay in range.
    fn reorder_moves(&mut self, dice: &mut Dice) {
        for run in self.runs() {
            let before: Vec<Line> = run.iter().map(|index| self.lines[*index]).collect();
            let mut shuffled = before.clone();
            dice.shuffle(&mut shuffled);
            for (index, line) in run.iter().zip(&shuffled) {
                let target = &mut self.lines[*index];
                (target.op, target.right) = (line.op, line.right);
            }
            if !self.valid() {
                for (index, line) in run.iter().zip(before) {
                    self.lines[*index] = line;
                }
            }
        }
    }

    /// Longest sequences of gains and losses, each going on from the one before, whose results nothing
    /// else uses.
    fn runs(&self) -> Vec<Vec<usize>> {
        let mut runs: Vec<Vec<usize>> = Vec::new();
        for (index, line) in self.lines.iter().enumerate() {
            if line.forgotten.is_some() || line.amount || !line.op.is_move() {
                continue;
            }
            let follows = |run: &&mut Vec<usize>| {
                run.last().is_some_and(|last| {
                    self.resolve(line.left) == Operand::Line(*last) && self.uses(*last) == 1
                })
            };
            match runs.iter_mut().find(follows) {
                Some(run) => run.push(index),
                None => runs.push(vec![index]),
            }
        }
        runs.retain(|run| run.len() > 1);
        runs
    }

    /// The lines in an order in which they can be written.
    fn order(&self, reorder: bool, dice: &mut Dice) -> Vec<usize> {
        let mut order = Vec::new();
        if dice.chance(AMOUNTS_FIRST) {
            let mut amounts: Vec<usize> = (0..self.len()).filter(|index| self.lines[*index].amount).collect();
            if reorder {
                dice.shuffle(&mut amounts);
            }
            for index in amounts {
                self.visit(Operand::Line(index), &mut order);
            }
        }
        self.visit(Operand::Line(self.len() - 1), &mut order);
        order
    }

    fn visit(&self, operand: Operand, order: &mut Vec<usize>) {
        let Operand::Line(index) = self.resolve(operand) else { return };
        if order.contains(&index) {
            return;
        }
        let line = &self.lines[index];
        self.visit(line.left, order);
        self.visit(line.right, order);
        order.push(index);
    }

    fn write(&self, order: &[usize], dice: &mut Dice) -> String {
        let style = Style::draw(dice);
        let (sums, products) = (dice.chance(COMMUTE), dice.chance(COMMUTE));
        let mut steps = Vec::with_capacity(order.len());
        for (position, index) in order.iter().enumerate() {
            let line = &self.lines[*index];
            let mut operands = [line.left, line.right]
                .map(|operand| self.value(operand).expect("results were checked before writing"));
            let result =
                line.op.apply(operands[0], operands[1]).expect("results were checked before writing");
            if (line.op == Op::Add && sums) || (line.op == Op::Multiply && products) {
                operands.reverse();
            }
            let [left, right] = operands;
            let prefix = style.prefix(position, order.len());
            steps.push(format!("{prefix}{left} {} {right} = {result}", line.op.sign()));
        }
        let answer = self.value(Operand::Line(self.len() - 1)).expect("results were checked before writing");
        format!("{}\n\n# Answer\n\n{answer}", steps.join("\n\n"))
    }
}

/// How the steps of a solution begin.
#[derive(Debug, Clone, Copy)]
enum Style {
    Bare,
    FirstThen,
    So,
}

impl Style {
    fn draw(dice: &mut Dice) -> Self {
        match dice.below(100) {
            0..25 => Self::FirstThen,
            25..40 => Self::So,
            _ => Self::Bare,
        }
    }

    fn prefix(self, position: usize, steps: usize) -> &'static str {
        match self {
            Self::FirstThen if position == 0 => "first ",
            Self::FirstThen => "then ",
            Self::So if position + 1 == steps => "so ",
            Self::So | Self::Bare => "",
        }
    }
}
