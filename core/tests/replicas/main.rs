//! A few peers that are replicas of everything, and the messages between them: what they say to each other, to the letter.

mod leave;
mod names;
mod network;
mod owner;
mod pages;
mod ring;
mod search;
