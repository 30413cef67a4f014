//! Networks against the definition of every layer: what they give, and how they learn.

mod definition;
mod inference;
mod training;
