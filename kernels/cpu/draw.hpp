/* cpu/draw.hpp: draws one id from the logits [V] of a stream.
 *   p = softmax(logits / temperature), or softmax(exp(min(logits / temperature, 700))) for the law "exp"
 *   top_k: p of all but the k likeliest is 0     top_p: p of all but the fewest likeliest that reach top_p is 0
 *   min_p: p of every id less than min_p times as likely as the likeliest is 0
 *   id = the first up to which the sum of p reaches uniform * (the sum of all)
 * Of two ids the likelier is the one with the larger logit, as a float, and of equal logits the lower id. argmax takes
 * the likeliest of all. p is double and is summed in the order of ids; for top_p, in the order of likelihood.
 * Source: Holtzman et al. 2020 for top_p, Nguyen et al. 2024 for min_p. Reference: cuchar/sampling.py
 */
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "cpu/lanes.hpp"

/* How to draw, in the order that cuchar/engines/cpu/library.py has the fields in. */
struct Law {
    long is_exp, argmax;  // 0 or 1
    long top_k;           // 0 for no limit
    double coldness;      // 1 / temperature
    double top_p;         // 1 for no limit
    double min_p;         // 0 for no limit
};

/* Draws by one law, again and again, with the scratch space that takes. */
class Sampler {
   public:
    Sampler(const Law& law, long V)
        : law(law), V(V), p((V + IN_VECTOR - 1) / IN_VECTOR * IN_VECTOR), up_to(V), order(V) {}

    /* An id, by a number `uniform` between 0 and 1; -1 where a logit is not finite. */
    int draw(const real* logits, double uniform) {
        const auto likelier = [&](int a, int b) {
            const float of_a = logits[a], of_b = logits[b];
            return of_a > of_b || (of_a == of_b && a < b);
        };
        if (!find_scores(logits)) return -1;
        if (law.argmax) {
            int best = 0;
            for (int v = 1; v < V; ++v)
                if (likelier(v, best)) best = v;
            return best;
        }
        find_p();
        if (law.top_k || law.top_p < 1) {
            std::iota(order.begin(), order.end(), 0);
            std::sort(order.begin(), order.end(), likelier);
            long kept = law.top_k ? std::min(law.top_k, V) : V;
            double goal = 0, sum = 0;
            for (long rank = 0; rank < kept; ++rank) goal += p[order[rank]] * law.top_p;
            for (long rank = 0; law.top_p < 1 && rank < kept; ++rank) {
                sum += p[order[rank]];
                if (sum >= goal) kept = rank + 1;  // which ends the loop
            }
            for (long rank = kept; rank < V; ++rank) p[order[rank]] = 0;
        }
        if (law.min_p > 0)
            for (double& found : p) found = found < law.min_p ? 0 : found;  // the likeliest id's p is 1
        double sum = 0;
        for (long v = 0; v < V; ++v) up_to[v] = sum += p[v];
        const double goal = uniform * sum;
        long below = 0;
        for (const double found : up_to) below += found < goal;
        return below;
    }

   private:
    static constexpr long IN_VECTOR = REGISTER_BYTES / sizeof(double);

    static Doubles load(const double* from) {
        Doubles numbers;
        std::memcpy(&numbers, from, sizeof numbers);
        return numbers;
    }

    /* Puts logits / temperature where p will be. Returns whether all of them are finite. */
    bool find_scores(const real* logits) {
        double no_difference = 0;
        for (long v = 0; v < V; ++v) {
            p[v] = logits[v] * law.coldness;
            no_difference += p[v] - p[v];  // NaN where a logit is not finite
        }
        return no_difference == 0;
    }

    /* Makes p, up to a factor, from the scores: the largest p is 1. */
    void find_p() {
        if (law.is_exp)
            for (long v = 0; v < V; ++v) p[v] = std::exp(std::min(p[v], 700.0));
        std::fill(p.begin() + V, p.end(), -HUGE_VAL);  // so that the numbers beyond V have a p of 0
        Doubles largest = load(p.data());
        for (std::size_t v = 0; v < p.size(); v += IN_VECTOR) {
            const Doubles scores = load(&p[v]);
            largest = scores > largest ? scores : largest;
        }
        double most = largest[0];
        for (long lane = 1; lane < IN_VECTOR; ++lane) most = std::max(most, largest[lane]);
        for (std::size_t v = 0; v < p.size(); v += IN_VECTOR) {
            const Doubles found = exp_of_negative(load(&p[v]) - most, Doubles{});
            std::memcpy(&p[v], &found, sizeof found);
        }
    }

    const Law& law;
    const long V;
    std::vector<double> p;      // [V], and then numbers that fill the last vector
    std::vector<double> up_to;  // [V]: the sum of p up to an id
    std::vector<int> order;     // the ids, the likeliest first
};
