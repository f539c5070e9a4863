//! Lists of every sort, sound and unsound, and how paths are judged by them.

mod fetching;
mod forge;
mod judging;
mod loading;
mod parsing;
mod site;
mod speed;
mod store;
mod waiting;
