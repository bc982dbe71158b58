//! Fractions of 128-bit integers, every operation checked.

/// A fraction in lowest terms, with a positive denominator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rational {
    numerator: i128,
    denominator: i128,
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        if let (Ok(x), Ok(y)) = (u64::try_from(a), u64::try_from(b)) {
            return u128::from(gcd_64(x, y));
        }
        (a, b) = (b, a % b);
    }
    a
}

fn gcd_64(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Rational {
    pub(super) const ZERO: Self = Self { numerator: 0, denominator: 1 };
    pub(super) const ONE: Self = Self { numerator: 1, denominator: 1 };

    pub(super) fn integer(value: i128) -> Self {
        Self { numerator: value, denominator: 1 }
    }

    /// `None` for a zero denominator, and for the one integer without an opposite.
    pub(super) fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 1 {
            return Some(Self::integer(numerator));
        }
        if denominator == 0 || denominator == i128::MIN || numerator == i128::MIN {
            return None;
        }
        let divisor = i128::try_from(gcd(numerator.unsigned_abs(), denominator.unsigned_abs())).ok()?;
        let divisor = divisor * denominator.signum();
        Some(Self { numerator: numerator / divisor, denominator: denominator / divisor })
    }

    pub(super) fn numerator(self) -> i128 {
        self.numerator
    }

    pub(super) fn denominator(self) -> i128 {
        self.denominator
    }

    pub(super) fn as_integer(self) -> Option<i128> {
        (self.denominator == 1).then_some(self.numerator)
    }

    pub(super) fn is_negative(self) -> bool {
        self.numerator < 0
    }

    pub(super) fn negated(self) -> Option<Self> {
        Some(Self { numerator: self.numerator.checked_neg()?, ..self })
    }

    pub(super) fn plus(self, other: Self) -> Option<Self> {
        if self.denominator == other.denominator {
            return Self::new(self.numerator.checked_add(other.numerator)?, self.denominator);
        }
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        Self::new(left.checked_add(right)?, self.denominator.checked_mul(other.denominator)?)
    }

    pub(super) fn times(self, other: Self) -> Option<Self> {
        Self::new(
            self.numerator.checked_mul(other.numerator)?,
            self.denominator.checked_mul(other.denominator)?,
        )
    }

    pub(super) fn inverse(self) -> Option<Self> {
        Self::new(self.denominator, self.numerator)
    }

    pub(super) fn over(self, other: Self) -> Option<Self> {
        self.times(other.inverse()?)
    }

    /// A whole power; `None` for 0 to a power that is not positive.
    pub(super) fn power(self, exponent: i128) -> Option<Self> {
        if self == Self::ONE {
            return Some(self);
        }
        let base = if exponent < 0 { self.inverse()? } else { self };
        if base.numerator == 0 && exponent == 0 {
            return None;
        }
        let exponent = u32::try_from(exponent.unsigned_abs()).ok()?;
        Some(Self {
            numerator: base.numerator.checked_pow(exponent)?,
            denominator: base.denominator.checked_pow(exponent)?,
        })
    }

    /// The exact root of that degree, where there is one: the real one, also of negative numbers where
    /// the degree is odd.
    pub(super) fn root(self, degree: u32) -> Option<Self> {
        let sign = if self.numerator < 0 { -1 } else { 1 };
        if degree == 0 || (sign < 0 && degree.is_multiple_of(2)) {
            return None;
        }
        let numerator = whole_root(self.numerator.checked_abs()?, degree)?;
        let denominator = whole_root(self.denominator, degree)?;
        Self::new(sign * numerator, denominator)
    }

    /// Whether it can be written as a decimal with an end: its denominator has no factors but 2 and 5.
    pub(super) fn ends(self) -> bool {
        let mut rest = self.denominator;
        for factor in [2, 5] {
            while rest % factor == 0 {
                rest /= factor;
            }
        }
        rest == 1
    }

    #[expect(clippy::cast_precision_loss, reason = "the nearest number is asked for")]
    pub(super) fn to_f64(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }
}

fn whole_root(value: i128, degree: u32) -> Option<i128> {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "checked below")]
    let near = (value as f64).powf(1.0 / f64::from(degree)).round() as i128;
    (near - 1..=near + 1).find(|root| root.checked_pow(degree) == Some(value))
}
