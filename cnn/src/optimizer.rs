//! How gradients change weights.

use crate::Error;
use crate::error::zeros;
use crate::graph::Parameter;

/// A rule of descent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimizer {
    /// v = momentum · v + g + decay · w; w −= rate · v.
    Sgd {
        /// Learning rate.
        rate: f32,
        /// Share of the last step's direction.
        momentum: f32,
        /// Pulls weights towards 0.
        weight_decay: f32,
    },
    /// Adam (Kingma and Ba, 2014): steps of the running mean of gradients over the root of that of their
    /// squares, both corrected for having begun at 0.
    Adam {
        /// Learning rate.
        rate: f32,
        /// Share of the past in the mean of gradients.
        beta1: f32,
        /// Share of the past in the mean of squares.
        beta2: f32,
        /// Keeps the root from 0.
        epsilon: f32,
        /// Pulls weights towards 0: added, times the weight, to the gradient.
        weight_decay: f32,
    },
}

impl Optimizer {
    /// Stochastic gradient descent with momentum 0.9 and no decay.
    pub fn sgd(rate: f32) -> Self {
        Optimizer::Sgd { rate, momentum: 0.9, weight_decay: 0.0 }
    }

    /// Adam with the values of its paper and no decay.
    pub fn adam(rate: f32) -> Self {
        Optimizer::Adam { rate, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }

    /// The same rule with another learning rate.
    pub fn with_rate(self, new: f32) -> Self {
        match self {
            Optimizer::Sgd { momentum, weight_decay, .. } => {
                Optimizer::Sgd { rate: new, momentum, weight_decay }
            }
            Optimizer::Adam { beta1, beta2, epsilon, weight_decay, .. } => {
                Optimizer::Adam { rate: new, beta1, beta2, epsilon, weight_decay }
            }
        }
    }

    /// The learning rate.
    pub fn rate(self) -> f32 {
        match self {
            Optimizer::Sgd { rate, .. } | Optimizer::Adam { rate, .. } => rate,
        }
    }

    pub(crate) fn check(self) -> Result<(), Error> {
        let share = 0.0..1.0;
        let checks = match self {
            Optimizer::Sgd { rate, momentum, weight_decay } => [
                ("rate", rate, rate > 0.0),
                ("momentum", momentum, share.contains(&momentum)),
                ("weight_decay", weight_decay, weight_decay >= 0.0),
                ("epsilon", 1.0, true),
            ],
            Optimizer::Adam { rate, beta1, beta2, epsilon, weight_decay } => [
                ("rate", rate, rate > 0.0),
                ("beta1 or beta2", beta1.max(beta2), share.contains(&beta1) && share.contains(&beta2)),
                ("weight_decay", weight_decay, weight_decay >= 0.0),
                ("epsilon", epsilon, epsilon > 0.0),
            ],
        };
        match checks.into_iter().find(|(.., good)| !good) {
            Some((option, value, _)) => Err(Error::Option {
                option,
                value: value.to_string(),
                expected: "more than 0 (rate, epsilon), at least 0 (decay), or from 0 to below 1 (shares)",
            }),
            None => Ok(()),
        }
    }
}

/// What an optimizer remembers of each parameter.
#[derive(Debug)]
pub(crate) struct State {
    /// Mean of gradients, or velocity.
    first: Vec<Vec<f32>>,
    /// Mean of squares; empty for SGD.
    second: Vec<Vec<f32>>,
    steps: i32,
}

impl State {
    pub(crate) fn new(optimizer: Optimizer, parameters: &[Parameter]) -> Result<Self, Error> {
        let all = |kept: bool| {
            let len = |p: &Parameter| if kept && p.role.is_learned() { p.len() } else { 0 };
            parameters.iter().map(|p| zeros(len(p))).collect::<Result<Vec<_>, Error>>()
        };
        let squares = matches!(optimizer, Optimizer::Adam { .. });
        Ok(State { first: all(true)?, second: all(squares)?, steps: 0 })
    }

    /// Changes all learned weights by their gradients.
    pub(crate) fn step(&mut self, optimizer: Optimizer, weights: &mut [Vec<f32>], gradients: &[Vec<f32>]) {
        self.steps = self.steps.saturating_add(1);
        let tensors = weights.iter_mut().zip(gradients).zip(self.first.iter_mut().zip(&mut self.second));
        for ((w, g), (m, v)) in tensors {
            match optimizer {
                Optimizer::Sgd { rate, momentum, weight_decay } => {
                    for ((w, g), m) in w.iter_mut().zip(g).zip(m) {
                        *m = momentum * *m + g + weight_decay * *w;
                        *w -= rate * *m;
                    }
                }
                Optimizer::Adam { rate, beta1, beta2, epsilon, weight_decay } => {
                    let corrections = [beta1, beta2].map(|beta| 1.0 - beta.powi(self.steps));
                    for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                        let g = g + weight_decay * *w;
                        *m = beta1 * *m + (1.0 - beta1) * g;
                        *v = beta2 * *v + (1.0 - beta2) * g * g;
                        *w -= rate * (*m / corrections[0]) / ((*v / corrections[1]).sqrt() + epsilon);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Role;

    fn after(optimizer: Optimizer, gradients: &[f32]) -> f32 {
        let parameter = Parameter { name: "w".to_owned(), shape: vec![1], role: Role::Weight };
        let mut state = State::new(optimizer, &[parameter]).unwrap();
        let mut weights = [vec![1.0]];
        for &g in gradients {
            state.step(optimizer, &mut weights, &[vec![g]]);
        }
        weights[0][0]
    }

    #[test]
    fn steps_are_the_formulas() {
        // v = 0.5, then 0.45 + 0.5.
        assert!((after(Optimizer::sgd(0.1), &[0.5, 0.5]) - (1.0 - 0.05 - 0.095)).abs() < 1e-6);
        let decay = Optimizer::Sgd { rate: 0.1, momentum: 0.0, weight_decay: 0.5 };
        assert_eq!(after(decay, &[0.0]), 0.95);
        // Adam's first step is the rate, whatever the gradient.
        assert!((after(Optimizer::adam(0.1), &[3.0]) - 0.9).abs() < 1e-6);
        assert!((after(Optimizer::adam(0.1), &[3.0, 3.0, 3.0]) - 0.7).abs() < 1e-5);
    }

    #[test]
    fn bad_values_are_named() {
        let message = Optimizer::sgd(f32::NAN).check().unwrap_err().to_string();
        assert!(message.starts_with("rate is NaN"), "{message}");
        let adam = Optimizer::Adam { rate: 1.0, beta1: 1.0, beta2: 0.0, epsilon: 1.0, weight_decay: 0.0 };
        assert!(adam.check().unwrap_err().to_string().starts_with("beta1 or beta2 is 1"));
        assert!(Optimizer::sgd(0.1).check().is_ok() && Optimizer::adam(0.1).check().is_ok());
    }
}
