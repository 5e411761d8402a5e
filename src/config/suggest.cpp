// The nearest valid word for a misspelt one.
#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "revode/config/config.hpp"
#include "revode/core/error.hpp"

namespace revode {
namespace {

/// Edit distance with swaps of neighbours ("optimal string alignment"): distance(i, j) between the
/// first i letters of `a` and the first j of `b` is the least of one step from its neighbours in
/// the table.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  const std::size_t columns = b.size() + 1;
  std::vector<std::size_t> table((a.size() + 1) * columns);
  const auto distance = [&](std::size_t i, std::size_t j) -> std::size_t& {
    return table[i * columns + j];
  };
  for (std::size_t i = 0; i <= a.size(); ++i) distance(i, 0) = i;
  for (std::size_t j = 0; j <= b.size(); ++j) distance(0, j) = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = distance(i - 1, j - 1) + (a[i - 1] == b[j - 1] ? 0 : 1);
      distance(i, j) = std::min({distance(i - 1, j) + 1, distance(i, j - 1) + 1, replaced});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) distance(i, j) = std::min(distance(i, j), distance(i - 2, j - 2) + 1);
    }
  }
  return distance(a.size(), b.size());
}

}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  REVODE_ASSERT(!candidates.empty());
  // Twice as long as any candidate: what follows is as far from one as from another, and a word of
  // megabytes would take a table of gigabytes.
  constexpr std::size_t longest = 64;
  word = word.substr(0, longest);
  const auto rank = [&](const std::string& candidate) {
    const bool abbreviated = !word.empty() && candidate.starts_with(word);
    return std::pair(!abbreviated, edit_distance(word, candidate));
  };
  return *std::min_element(
      candidates.begin(), candidates.end(),
      [&](const std::string& a, const std::string& b) { return rank(a) < rank(b); });
}

}  // namespace revode
