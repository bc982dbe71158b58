//! The value of an expression: as an exact fraction, in a prime field, or as a complex float.

use super::complex::Complex;
use super::expr::{Constant, Expr, Function, Name};
use super::modular::Residue;
use super::rational::Rational;
use super::work::Work;

/// The largest whole power that is worked out exactly.
const MAX_POWER: i128 = 4096;
const MAX_FACTORIAL: i128 = 1000;

/// The exact value of a rational constant. `None` for anything else, and when it is too long.
pub(super) fn exact(expr: &Expr, work: &Work) -> Option<Rational> {
    work.spend(1)?;
    match expr {
        Expr::Number(number) => number.exact,
        Expr::Negative(inner) => exact(inner, work)?.negated(),
        Expr::Inverse(inner) => exact(inner, work)?.inverse(),
        Expr::Sum(terms) => terms.iter().try_fold(Rational::ZERO, |sum, term| sum.plus(exact(term, work)?)),
        Expr::Product(factors) if !factors.is_empty() => {
            factors.iter().try_fold(Rational::ONE, |product, factor| product.times(exact(factor, work)?))
        }
        Expr::Power(base, exponent) => {
            let (base, exponent) = (exact(base, work)?, exact(exponent, work)?);
            let degree = u32::try_from(exponent.denominator()).ok()?;
            let base = if degree == 1 { base } else { base.root(degree)? };
            let power = exponent.numerator();
            (power.abs() <= MAX_POWER).then(|| base.power(power))?
        }
        Expr::Root(inner, degree) => {
            let degree = match degree {
                Some(degree) => u32::try_from(exact(degree, work)?.as_integer()?).ok()?,
                None => 2,
            };
            exact(inner, work)?.root(degree)
        }
        Expr::Absolute(inner) => {
            let value = exact(inner, work)?;
            if value.is_negative() { value.negated() } else { Some(value) }
        }
        Expr::Percent(inner) => exact(inner, work)?.over(Rational::integer(100)),
        Expr::Factorial(inner) => {
            let last = whole(exact(inner, work)?, MAX_FACTORIAL)?;
            let product = (1..=last).try_fold(1_i128, i128::checked_mul)?;
            Some(Rational::integer(product))
        }
        Expr::Quantity(inner, _) => exact(inner, work),
        Expr::Call(function, arguments) => exact_call(*function, arguments, work),
        _ => None,
    }
}

fn exact_call(function: Function, arguments: &[Expr], work: &Work) -> Option<Rational> {
    let mut values = Vec::with_capacity(arguments.len());
    match function {
        Function::Floor
        | Function::Ceiling
        | Function::Minimum
        | Function::Maximum
        | Function::Gcd
        | Function::Lcm
        | Function::Binomial => {}
        _ => return None,
    }
    for argument in arguments {
        values.push(exact(argument, work)?);
    }
    let first = *values.first()?;
    let less = |a: Rational, b: Rational| Some(a.plus(b.negated()?)?.is_negative());
    match function {
        Function::Floor => Some(Rational::integer(first.numerator().div_euclid(first.denominator()))),
        Function::Ceiling => Some(Rational::integer(
            first.numerator().checked_neg()?.div_euclid(first.denominator()).checked_neg()?,
        )),
        Function::Minimum => values.iter().try_fold(first, |a, b| Some(if less(*b, a)? { *b } else { a })),
        Function::Maximum => values.iter().try_fold(first, |a, b| Some(if less(a, *b)? { *b } else { a })),
        Function::Gcd | Function::Lcm => {
            let mut result = 0_i128;
            for (at, value) in values.iter().enumerate() {
                let value = value.as_integer()?.checked_abs()?;
                let divisor = gcd(result, value);
                result = match function {
                    Function::Gcd => divisor,
                    _ if at == 0 => value,
                    _ => result.checked_div(divisor)?.checked_mul(value)?,
                };
            }
            Some(Rational::integer(result))
        }
        Function::Binomial => {
            let n = whole(first, MAX_FACTORIAL)?;
            let k = whole(*values.get(1)?, n)?;
            let k = k.min(n - k);
            (0..k)
                .try_fold(1_i128, |product, at| Some(product.checked_mul(n - at)? / (at + 1)))
                .map(Rational::integer)
        }
        _ => None,
    }
}

fn gcd(mut a: i128, mut b: i128) -> i128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// A mix of bits that looks random; the same on every machine.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The value of a rational function at the given point of the prime field; π and e are unknowns there.
/// `None` where there are roots, functions or other powers.
pub(super) fn residue(expr: &Expr, point: u64, work: &Work) -> Option<Residue> {
    work.spend(1)?;
    let unknown = |name: u64| Residue::new(mix(name ^ mix(point)));
    match expr {
        Expr::Number(number) => number.residue,
        Expr::Variable(name) => Some(unknown(name.hash)),
        Expr::Constant(Constant::Pi) => Some(unknown(1)),
        Expr::Constant(Constant::E) => Some(unknown(2)),
        Expr::Negative(inner) => Some(residue(inner, point, work)?.negated()),
        Expr::Inverse(inner) => residue(inner, point, work)?.inverse(),
        Expr::Sum(terms) => {
            terms.iter().try_fold(Residue::ZERO, |sum, term| Some(sum.plus(residue(term, point, work)?)))
        }
        Expr::Product(factors) if !factors.is_empty() => factors
            .iter()
            .try_fold(Residue::ONE, |product, factor| Some(product.times(residue(factor, point, work)?))),
        Expr::Power(base, exponent) => {
            let exponent = exact(exponent, work)?.as_integer()?;
            let base = residue(base, point, work)?;
            work.spend(16)?;
            let power = base.power(exponent.unsigned_abs());
            if exponent < 0 { power.inverse() } else { Some(power) }
        }
        Expr::Factorial(inner) => {
            let last = whole(exact(inner, work)?, MAX_FACTORIAL)?;
            product(1, last, work)
        }
        Expr::Call(Function::Binomial, arguments) => {
            let [n, k] = arguments.as_slice() else { return None };
            let n = whole(exact(n, work)?, MAX_FACTORIAL)?;
            let k = whole(exact(k, work)?, n)?;
            let k = k.min(n - k);
            Some(product(n - k + 1, n, work)?.times(product(1, k, work)?.inverse()?))
        }
        Expr::Percent(inner) => Some(residue(inner, point, work)?.times(Residue::of_integer(100).inverse()?)),
        Expr::Quantity(inner, _) => residue(inner, point, work),
        _ => None,
    }
}

/// A whole number from 0 to `most`.
fn whole(value: Rational, most: i128) -> Option<i128> {
    value.as_integer().filter(|value| (0..=most).contains(value))
}

/// The product of all whole numbers from the first to the last, in the prime field: most are too long for a
/// [`Rational`].
fn product(first: i128, last: i128, work: &Work) -> Option<Residue> {
    work.spend(u32::try_from(last - first + 1).ok()?)?;
    Some((first..=last).fold(Residue::ONE, |product, factor| product.times(Residue::of_integer(factor))))
}

/// Points from here on have negative and whole coordinates too.
pub(super) const ELSEWHERE: u64 = 1 << 32;

/// A point for all variables: positive, so that roots and logarithms are at home there, before [`ELSEWHERE`].
pub(super) fn sample(name: Name, point: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "any number will do")]
    let unit = (mix(name.hash ^ mix(point.wrapping_add(7))) >> 11) as f64 / (1_u64 << 53) as f64;
    match point.checked_sub(ELSEWHERE) {
        None => 0.35 + 2.3 * unit,
        Some(point) if point % 2 == 0 => 8.0 * (unit - 0.5),
        Some(_) => (8.0 * (unit - 0.5)).round(),
    }
}

/// The value at a point, as a complex float. `None` for structures and when the work is used up.
pub(super) fn float(expr: &Expr, point: u64, work: &Work) -> Option<Complex> {
    Floats { point, work, angle: false }.of(expr)
}

struct Floats<'a> {
    point: u64,
    work: &'a Work,
    /// Inside of a function, degrees are a factor π/180.
    angle: bool,
}

impl Floats<'_> {
    fn of(&mut self, expr: &Expr) -> Option<Complex> {
        self.work.spend(1)?;
        match expr {
            Expr::Number(number) => Some(Complex::real(number.float)),
            Expr::Variable(name) => Some(Complex::real(sample(*name, self.point))),
            Expr::Constant(constant) => Some(match constant {
                Constant::Pi => Complex::real(std::f64::consts::PI),
                Constant::E => Complex::real(std::f64::consts::E),
                Constant::I => Complex { re: 0.0, im: 1.0 },
                Constant::Infinity => Complex::real(f64::INFINITY),
            }),
            Expr::Negative(inner) => Some(self.of(inner)?.negated()),
            Expr::Inverse(inner) => Some(self.of(inner)?.inverse()),
            Expr::Sum(terms) => {
                terms.iter().try_fold(Complex::real(0.0), |sum, term| Some(sum.plus(self.of(term)?)))
            }
            Expr::Product(factors) if !factors.is_empty() => factors
                .iter()
                .try_fold(Complex::real(1.0), |product, factor| Some(product.times(self.of(factor)?))),
            Expr::Power(base, exponent) => self.power(base, exponent),
            Expr::Root(inner, degree) => {
                let value = self.of(inner)?;
                let Some(degree) = degree else { return Some(value.square_root()) };
                match exact(degree, self.work).and_then(Rational::as_integer) {
                    Some(2) => Some(value.square_root()),
                    Some(whole) => Some(value.real_power(1, whole)),
                    None => Some(value.power(self.of(degree)?.inverse())),
                }
            }
            Expr::Absolute(inner) => Some(Complex::real(self.of(inner)?.modulus())),
            Expr::Factorial(inner) => {
                let value = self.of(inner)?;
                value.factorial()
            }
            Expr::Percent(inner) => Some(self.of(inner)?.times(Complex::real(0.01))),
            Expr::Degrees(inner) => {
                let factor = if self.angle { std::f64::consts::PI / 180.0 } else { 1.0 };
                Some(self.of(inner)?.times(Complex::real(factor)))
            }
            Expr::Quantity(inner, _) => self.of(inner),
            Expr::Call(function, arguments) => {
                if let Some(value) = exact_call(*function, arguments, self.work) {
                    return Some(Complex::real(value.to_f64()));
                }
                let before = std::mem::replace(&mut self.angle, true);
                let first = self.of(arguments.first()?)?;
                let second = match arguments.get(1) {
                    Some(second) => Some(self.of(second)?),
                    None => None,
                };
                self.angle = before;
                first.call(*function, second)
            }
            _ => None,
        }
    }

    fn power(&mut self, base: &Expr, exponent: &Expr) -> Option<Complex> {
        let value = self.of(base)?;
        match exact(exponent, self.work) {
            Some(rational) => Some(value.real_power(rational.numerator(), rational.denominator())),
            None => Some(value.power(self.of(exponent)?)),
        }
    }
}
