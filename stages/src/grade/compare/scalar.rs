//! Single values: exactly, as rational functions, at sample points, and as rounded decimals.

use super::super::evaluate::{ELSEWHERE, exact, float, residue};
use super::super::expr::{Constant, Expr, Function, Name};
use super::super::rational::Rational;
use super::super::units::{Comparable, Known, Measure, Unit, known_letter, product};
use super::super::{Percent, Rounding};
use super::Comparison;

/// Two different values that any two answers have differ by more than this, relative to their size.
const TOLERANCE: f64 = 1e-9;
/// Points at which expressions with variables are compared.
pub(super) const POINTS: u64 = 8;
const ENOUGH_POINTS: u32 = 4;

/// A decimal as it was written.
#[derive(Debug, Clone, Copy)]
struct Written {
    value: f64,
    /// What its last digit counts.
    unit: f64,
    digits: u32,
    /// Written with a decimal point or a power of ten.
    decimal: bool,
}

impl Comparison<'_> {
    pub(super) fn scalars(&self, a: &Expr, b: &Expr) -> bool {
        let ((value, unit), (other, other_unit)) = (measured(a), measured(b));
        match (unit, other_unit) {
            (None, None) => self.values(a, b),
            (Some(unit), Some(other_unit)) => self.quantities((value, unit), (other, other_unit)),
            (Some(unit), None) => self.with_unit(value, unit, other),
            (None, Some(unit)) => self.with_unit(other, unit, value),
        }
    }

    fn quantities(&self, (value, unit): (&Expr, Unit), (other, other_unit): (&Expr, Unit)) -> bool {
        if self.conventions.units_ignored {
            return self.values(value, other);
        }
        let times = |value: &Expr, size: Rational| Expr::Product(vec![value.clone(), Expr::rational(size)]);
        match unit.comparable(other_unit) {
            Comparable::Never => false,
            Comparable::Values => self.values(value, other),
            Comparable::Sizes(size, other_size) if size == other_size => self.values(value, other),
            Comparable::Sizes(size, other_size) => {
                self.values(&times(value, size), &times(other, other_size))
            }
        }
    }

    /// Whether `value unit` is the other value, which has no unit.
    fn with_unit(&self, value: &Expr, unit: Unit, other: &Expr) -> bool {
        match unit.letter {
            _ if unit.measure() == Some(Measure::PERCENT) => self.percent(value, other),
            _ if unit.known.is_some() && !other.is_constant() && letters(other).is_some() => letters(other)
                .is_some_and(|(factors, (measure, size))| {
                    let other_unit = Unit::of(measure, size);
                    self.quantities((value, unit), (&Expr::Product(factors), other_unit))
                }),
            // `3 m` is a product where the other side has variables.
            Some(letter) if !other.is_constant() => {
                let variable = Expr::Variable(Name::of(letter.encode_utf8(&mut [0; 4])));
                self.values(&Expr::Product(vec![value.clone(), variable]), other)
            }
            _ => self.values(value, other),
        }
    }

    /// Whether `value %` is the other value.
    fn percent(&self, value: &Expr, other: &Expr) -> bool {
        let sign = || self.values(value, other);
        let hundredth = || self.values(&Expr::Percent(Box::new(value.clone())), other);
        match self.conventions.percent {
            Percent::Either => sign() || hundredth(),
            Percent::Sign => sign(),
            Percent::Hundredth => hundredth(),
        }
    }

    /// Values without units.
    fn values(&self, a: &Expr, b: &Expr) -> bool {
        if !self.conventions.unevaluated && unevaluated(a) != unevaluated(b) {
            return false;
        }
        if let (Some(left), Some(right)) = (exact(a, &self.work), exact(b, &self.work)) {
            return left == right || self.rounded(a, b);
        }
        let residues = |point| Some((residue(a, point, &self.work)?, residue(b, point, &self.work)?));
        if let (Some(first), Some(second)) = (residues(0), residues(1)) {
            return (first.0 == first.1 && second.0 == second.1) || self.rounded(a, b);
        }
        self.at_points(a, b) || self.decimal_logarithms(a, b) || self.rounded(a, b)
    }

    /// Whether they are equal when `log` is to the base 10.
    fn decimal_logarithms(&self, a: &Expr, b: &Expr) -> bool {
        let plain = |expr: &Expr| {
            expr.any(&|part| matches!(part, Expr::Call(Function::Log, arguments) if arguments.len() == 1))
        };
        (plain(a) || plain(b)) && self.at_points(&to_base_ten(a), &to_base_ten(b))
    }

    /// Whether floats agree: at one point for constants, at several otherwise.
    fn at_points(&self, a: &Expr, b: &Expr) -> bool {
        let constant = a.is_constant() && b.is_constant();
        // What is left of a sum or a function that should be 0. Products, powers and roots lose nothing, however
        // small they are.
        let left_over = if cancels(a) || cancels(b) { 1e-14 } else { 0.0 };
        let mut agreed = 0;
        for point in 0..POINTS {
            let (Some(left), Some(right)) = (float(a, point, &self.work), float(b, point, &self.work)) else {
                return false;
            };
            if !left.is_finite() || !right.is_finite() {
                if constant {
                    return infinite(a).is_some() && infinite(a) == infinite(b);
                }
                continue;
            }
            let size = left.modulus().max(right.modulus());
            let difference = left.minus(right).modulus();
            if difference > TOLERANCE * size && difference > left_over {
                return false;
            }
            agreed += 1;
            if constant || agreed >= ENOUGH_POINTS {
                return constant || self.everywhere(a, b);
            }
        }
        agreed >= 2 && self.everywhere(a, b)
    }

    /// Whether they also agree at negative and whole numbers, where `|x|` is not `x` and `⌈x⌉` not `⌊x⌋ + 1`.
    /// Without such functions nobody looks there: `\sqrt{x^2}` is `x` for the lengths that answers are about.
    fn everywhere(&self, a: &Expr, b: &Expr) -> bool {
        if !in_pieces(a) && !in_pieces(b) {
            return true;
        }
        let real =
            |expr, point| float(expr, point, &self.work).filter(|value| value.is_real() && value.is_finite());
        (ELSEWHERE..ELSEWHERE + POINTS).all(|point| match (real(a, point), real(b, point)) {
            (Some(left), Some(right)) => {
                (left.re - right.re).abs() <= TOLERANCE * left.re.abs().max(right.re.abs()).max(1e-3)
            }
            _ => !self.work.exhausted(),
        })
    }

    /// Whether one is a decimal that the other, a value without end, was rounded to.
    fn rounded(&self, a: &Expr, b: &Expr) -> bool {
        let Rounding { digits, relative } = self.conventions.rounding;
        if !a.is_constant() || !b.is_constant() {
            return false;
        }
        let (left, right) = (written(a), written(b));
        match (left, right) {
            (Some(left), Some(right)) if left.decimal && right.decimal => {
                let shorter = if left.unit >= right.unit { left } else { right };
                let difference = (left.value - right.value).abs();
                let noise = left.digits.max(right.digits) >= 14
                    && difference <= 1e-12 * left.value.abs().max(right.value.abs());
                noise || (shorter.digits >= 7 && difference <= shorter.unit * 0.500_001)
            }
            (Some(decimal), _) if decimal.decimal => self.rounds_to(b, decimal, digits, relative),
            (_, Some(decimal)) if decimal.decimal => self.rounds_to(a, decimal, digits, relative),
            _ => false,
        }
    }

    fn rounds_to(&self, value: &Expr, decimal: Written, digits: u32, relative: f64) -> bool {
        if exact(value, &self.work).is_some_and(Rational::ends) {
            return false;
        }
        let Some(value) = float(value, 0, &self.work).filter(|value| value.is_real() && value.is_finite())
        else {
            return false;
        };
        let (value, decimal_value) = (value.re, decimal.value);
        let difference = (value - decimal_value).abs();
        // What f64 cannot tell apart counts as the nearest.
        let slack = value.abs() * 4.0 * f64::EPSILON;
        let rounded = difference <= decimal.unit * 0.500_001 + slack;
        let cut = decimal_value.abs() <= value.abs() && difference < decimal.unit * 0.999_999;
        decimal.digits >= digits && (rounded || cut) && difference <= relative * value.abs()
    }
}

/// Whether rounding may leave something of a value that is 0.
fn cancels(expr: &Expr) -> bool {
    expr.any(&|part| matches!(part, Expr::Sum(_) | Expr::Call(..)))
}

/// Whether it has a function that is made of pieces.
pub(super) fn in_pieces(expr: &Expr) -> bool {
    expr.any(&|part| matches!(part, Expr::Absolute(_) | Expr::Call(Function::Floor | Function::Ceiling, _)))
}

/// With every `log` to the base 10.
fn to_base_ten(expr: &Expr) -> Expr {
    expr.mapped(&|part| match part {
        Expr::Call(Function::Log, arguments) if arguments.len() == 1 => {
            Some(Expr::Call(Function::Lg, arguments.iter().map(to_base_ten).collect()))
        }
        _ => None,
    })
}

/// Infinity with its sign.
fn infinite(expr: &Expr) -> Option<bool> {
    match expr {
        Expr::Constant(Constant::Infinity) => Some(true),
        Expr::Negative(inner) => infinite(inner).map(|positive| !positive),
        _ => None,
    }
}

/// The value and its unit.
pub(super) fn measured(expr: &Expr) -> (&Expr, Option<Unit>) {
    match expr {
        Expr::Quantity(inner, unit) => (inner, Some(*unit)),
        Expr::Percent(inner) => (inner, Some(Unit::of(Measure::PERCENT, Rational::ONE))),
        Expr::Degrees(inner) => (inner, Some(Unit::of(Measure::ANGLE, Rational::ONE))),
        _ => (expr, None),
    }
}

/// The factors of a product like `9.8m/s^2`, and the unit that its letters are.
fn letters(expr: &Expr) -> Option<(Vec<Expr>, Known)> {
    fn split(expr: &Expr, power: i8, factors: &mut Vec<Expr>, unit: &mut Option<Known>) -> Option<()> {
        let whole = |power: &Expr| {
            let (negative, number) = power.literal()?;
            let power = i8::try_from(number.exact?.as_integer()?).ok()?;
            if negative { power.checked_neg() } else { Some(power) }
        };
        match expr {
            Expr::Product(parts) => parts.iter().try_for_each(|part| split(part, power, factors, unit))?,
            Expr::Inverse(inner) if !inner.is_constant() => {
                split(inner, power.checked_neg()?, factors, unit)?;
            }
            Expr::Power(base, exponent) if !base.is_constant() => {
                split(base, power.checked_mul(whole(exponent)?)?, factors, unit)?;
            }
            Expr::Variable(name) => {
                let letter = ['m', 's', 'g', 'h', 'L', 'l']
                    .into_iter()
                    .find(|letter| *name == Name::of(letter.encode_utf8(&mut [0; 4])))?;
                let known = known_letter(letter)?;
                *unit = Some(product(unit.unwrap_or((Measure::NOTHING, Rational::ONE)), known, power)?);
            }
            constant if constant.is_constant() && power == 1 => factors.push(constant.clone()),
            _ => return None,
        }
        Some(())
    }
    let (mut factors, mut unit) = (Vec::new(), None);
    split(expr, 1, &mut factors, &mut unit)?;
    Some((factors, unit?)).filter(|(factors, _)| !factors.is_empty())
}

/// Arithmetic that was left undone: `2 + 3`, `10/2` and `2^2`, but not `1/2` or `1 1/2`.
fn unevaluated(expr: &Expr) -> bool {
    let integer = |expr: &Expr| expr.literal().and_then(|(_, number)| number.exact?.as_integer());
    match expr {
        Expr::Negative(inner) => unevaluated(inner),
        Expr::Product(parts) => match parts.as_slice() {
            [top, Expr::Inverse(bottom)] => match (integer(top), integer(bottom)) {
                (Some(top), Some(bottom)) => {
                    Rational::new(top, bottom).is_none_or(|value| value.denominator() != bottom)
                }
                _ => parts.iter().filter(|part| integer(part).is_some()).count() > 1,
            },
            parts => parts.iter().filter(|part| integer(part).is_some()).count() > 1,
        },
        Expr::Sum(parts) => match parts.as_slice() {
            [whole, fraction @ Expr::Product(_)] if integer(whole).is_some() => unevaluated(fraction),
            parts => parts.iter().filter(|part| integer(part).is_some()).count() > 1,
        },
        Expr::Power(base, exponent) => integer(base).is_some() && integer(exponent).is_some(),
        Expr::Factorial(inner) => integer(inner).is_some(),
        _ => false,
    }
}

fn written(expr: &Expr) -> Option<Written> {
    match expr {
        Expr::Negative(inner) => written(inner).map(|written| Written { value: -written.value, ..written }),
        Expr::Quantity(inner, _) | Expr::Degrees(inner) => written(inner),
        Expr::Percent(inner) => {
            written(inner).map(|w| Written { value: w.value / 100.0, unit: w.unit / 100.0, ..w })
        }
        Expr::Number(number) => {
            let decimals = number.decimals.unwrap_or(0);
            Some(Written {
                value: number.float,
                unit: 10.0_f64.powi(-i32::try_from(decimals).ok()?),
                digits: number.significant,
                decimal: decimals > 0,
            })
        }
        Expr::Product(parts) => match parts.as_slice() {
            // Scientific notation.
            [mantissa, Expr::Power(base, exponent)] => {
                let mantissa = written(mantissa)?;
                let (_, ten) = base.literal()?;
                let (negative, exponent) = exponent.literal()?;
                let exponent = i32::try_from(exponent.exact?.as_integer()?).ok()?;
                if ten.float != 10.0 || exponent > 300 {
                    return None;
                }
                let scale = 10.0_f64.powi(if negative { -exponent } else { exponent });
                Some(Written {
                    value: mantissa.value * scale,
                    unit: mantissa.unit * scale,
                    digits: mantissa.digits,
                    decimal: true,
                })
            }
            _ => None,
        },
        _ => None,
    }
}
