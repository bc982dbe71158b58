//! Complex floats: what is needed of them.

use super::expr::Function;

/// A complex number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Complex {
    pub(super) re: f64,
    pub(super) im: f64,
}

/// Lanczos' coefficients of the gamma function for g = 7.
const LANCZOS: [f64; 8] = [
    676.520_368_121_885_1,
    -1_259.139_216_722_402_8,
    771.323_428_777_653_1,
    -176.615_029_162_140_6,
    12.507_343_278_686_905,
    -0.138_571_095_265_720_12,
    9.984_369_578_019_572e-6,
    1.505_632_735_149_311_6e-7,
];

/// The gamma function, to about 13 digits.
fn gamma(x: f64) -> f64 {
    use std::f64::consts::PI;
    if x < 0.5 {
        return PI / ((PI * x).sin() * gamma(1.0 - x));
    }
    let x = x - 1.0;
    let shifted = x + 7.5;
    let sum = LANCZOS
        .iter()
        .zip(1..)
        .fold(0.999_999_999_999_809_9, |sum, (coefficient, at)| sum + coefficient / (x + f64::from(at)));
    (2.0 * PI).sqrt() * shifted.powf(x + 0.5) * (-shifted).exp() * sum
}

impl Complex {
    pub(super) fn real(re: f64) -> Self {
        Self { re, im: 0.0 }
    }

    pub(super) fn is_finite(self) -> bool {
        self.re.is_finite() && self.im.is_finite()
    }

    pub(super) fn is_real(self) -> bool {
        self.im == 0.0
    }

    pub(super) fn modulus(self) -> f64 {
        if self.im == 0.0 { self.re.abs() } else { self.re.hypot(self.im) }
    }

    fn argument(self) -> f64 {
        self.im.atan2(self.re)
    }

    pub(super) fn negated(self) -> Self {
        // −0 would choose the other side of a branch cut.
        Self { re: -self.re, im: if self.im == 0.0 { 0.0 } else { -self.im } }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { re: self.re + other.re, im: self.im + other.im }
    }

    pub(super) fn minus(self, other: Self) -> Self {
        self.plus(other.negated())
    }

    pub(super) fn times(self, other: Self) -> Self {
        if self.is_real() && other.is_real() {
            return Self::real(self.re * other.re);
        }
        Self { re: self.re * other.re - self.im * other.im, im: self.re * other.im + self.im * other.re }
    }

    pub(super) fn inverse(self) -> Self {
        if self.is_real() {
            return Self::real(1.0 / self.re);
        }
        let square = self.re * self.re + self.im * self.im;
        Self { re: self.re / square, im: -self.im / square }
    }

    pub(super) fn square_root(self) -> Self {
        if self.is_real() {
            return if self.re < 0.0 {
                Self { re: 0.0, im: (-self.re).sqrt() }
            } else {
                Self::real(self.re.sqrt())
            };
        }
        let modulus = self.modulus();
        let re = f64::midpoint(modulus, self.re).max(0.0).sqrt();
        let im = ((modulus - self.re) / 2.0).max(0.0).sqrt();
        Self { re, im: if self.im < 0.0 { -im } else { im } }
    }

    fn exp(self) -> Self {
        if self.is_real() {
            return Self::real(self.re.exp());
        }
        let size = self.re.exp();
        Self { re: size * self.im.cos(), im: size * self.im.sin() }
    }

    fn ln(self) -> Self {
        if self.is_real() && self.re > 0.0 {
            return Self::real(self.re.ln());
        }
        Self { re: self.modulus().ln(), im: self.argument() }
    }

    /// A power `numerator / denominator`. Odd roots of negative numbers are the real ones.
    pub(super) fn real_power(self, numerator: i128, denominator: i128) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "the nearest number is asked for")]
        let exponent = numerator as f64 / denominator as f64;
        if denominator == 1
            && let Ok(whole) = i32::try_from(numerator)
        {
            if self.is_real() {
                return Self::real(self.re.powi(whole));
            }
            if whole.unsigned_abs() <= 64 {
                let product =
                    (0..whole.unsigned_abs()).fold(Self::real(1.0), |product, _| product.times(self));
                return if whole < 0 { product.inverse() } else { product };
            }
        }
        if denominator == 2 && self.is_real() && numerator == 1 {
            return self.square_root();
        }
        if self.is_real() && self.re >= 0.0 {
            return Self::real(self.re.powf(exponent));
        }
        if self.is_real() && denominator % 2 != 0 && denominator != 1 {
            let size = (-self.re).powf(exponent);
            return Self::real(if numerator % 2 == 0 { size } else { -size });
        }
        self.power(Self::real(exponent))
    }

    pub(super) fn power(self, exponent: Self) -> Self {
        if self.re == 0.0 && self.im == 0.0 {
            return Self::real(if exponent.re > 0.0 { 0.0 } else { f64::NAN });
        }
        if self.is_real() && self.re > 0.0 && exponent.is_real() {
            return Self::real(self.re.powf(exponent.re));
        }
        self.ln().times(exponent).exp()
    }

    /// Of real numbers only: Γ(x + 1).
    pub(super) fn factorial(self) -> Option<Self> {
        if !self.is_real() || self.re < 0.0 || self.re > 1000.0 || self.re.fract() != 0.0 {
            return self.is_real().then(|| Self::real(gamma(self.re + 1.0)));
        }
        let (mut product, mut factor) = (1.0, 1.0);
        while factor < self.re {
            factor += 1.0;
            product *= factor;
        }
        Some(Self::real(product))
    }

    fn sin_cos(self) -> (Self, Self) {
        if self.is_real() {
            return (Self::real(self.re.sin()), Self::real(self.re.cos()));
        }
        let (sinh, cosh) = (self.im.sinh(), self.im.cosh());
        (
            Self { re: self.re.sin() * cosh, im: self.re.cos() * sinh },
            Self { re: self.re.cos() * cosh, im: -self.re.sin() * sinh },
        )
    }

    /// A function's value; `None` where it is not defined.
    pub(super) fn call(self, function: Function, second: Option<Self>) -> Option<Self> {
        let (sin, cos) = match function {
            Function::Sin | Function::Cos | Function::Tan | Function::Cot | Function::Sec | Function::Csc => {
                self.sin_cos()
            }
            _ => (self, self),
        };
        let over = |top: Self, bottom: Self| top.times(bottom.inverse());
        let half = Self::real(0.5);
        let (up, down) = (self.exp(), self.negated().exp());
        let real = |value: f64| Some(Self::real(value));
        match function {
            Function::Sin => Some(sin),
            Function::Cos => Some(cos),
            Function::Tan => Some(over(sin, cos)),
            Function::Cot => Some(over(cos, sin)),
            Function::Sec => Some(cos.inverse()),
            Function::Csc => Some(sin.inverse()),
            Function::Sinh => Some(up.minus(down).times(half)),
            Function::Cosh => Some(up.plus(down).times(half)),
            Function::Tanh => Some(over(up.minus(down), up.plus(down))),
            Function::Exp => Some(up),
            Function::Cis => Some(Self { re: 0.0, im: 1.0 }.times(self).exp()),
            Function::Ln => Some(self.ln()),
            Function::Log => Some(match second {
                Some(base) => over(self.ln(), base.ln()),
                None => self.ln(),
            }),
            Function::Lg => Some(over(self.ln(), Self::real(10.0).ln())),
            Function::Real => real(self.re),
            Function::Imaginary => real(self.im),
            _ if !self.is_real() || second.is_some_and(|second| !second.is_real()) => None,
            Function::Arcsin => real(self.re.asin()),
            Function::Arccos => real(self.re.acos()),
            Function::Arctan => real(self.re.atan()),
            Function::Floor => real(self.re.floor()),
            Function::Ceiling => real(self.re.ceil()),
            Function::Minimum => real(second.map_or(self.re, |second| self.re.min(second.re))),
            Function::Maximum => real(second.map_or(self.re, |second| self.re.max(second.re))),
            Function::Binomial => {
                let (n, k) = (self.re, second?.re);
                real(gamma(n + 1.0) / (gamma(k + 1.0) * gamma(n - k + 1.0)))
            }
            // Of unknowns: something that depends on both.
            Function::Gcd | Function::Lcm => {
                let kind = if function == Function::Gcd { 0.7 } else { 1.3 };
                real((self.re * kind + second?.re * 0.37).sin() + (second?.re * 1.9).cos() * self.re + 7.0)
            }
        }
    }
}
