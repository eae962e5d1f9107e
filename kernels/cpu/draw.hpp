/* cpu/draw.hpp: draws one id from the logits [V] of a stream.
 *   p = softmax(logits / temperature), or softmax(exp(min(logits / temperature, 700))) for the law "exp"
 *   top_k: p of all but the k likeliest is 0     top_p: p of all but the fewest likeliest that reach top_p is 0
 *   id = the first up to which the sum of p reaches uniform * (the sum of all)
 * Of two ids the likelier is the one with the larger logit, as a float, and of equal logits the lower id. argmax takes
 * the likeliest of all. p is double and is summed in the order of ids; for top_p, in the order of likelihood.
 * Source: Holtzman et al. 2020 for top_p. Reference: cuchar/sampling.py
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
};

/* Draws by one law, again and again, with the scratch space that takes. */
class Sampler {
   public:
    Sampler(const Law& law, long V) : law(law), p(V), order(V) {}

    /* An id, by a number `uniform` between 0 and 1; -1 where a logit is not finite. */
    int draw(const real* logits, double uniform) {
        const long V = p.size();
        if (!std::all_of(logits, logits + V, [](real logit) { return std::isfinite(logit); })) return -1;
        const auto likelier = [&](int a, int b) {
            return static_cast<float>(logits[a]) > static_cast<float>(logits[b]);
        };
        if (law.argmax) {
            int best = 0;
            for (int v = 1; v < V; ++v)
                if (likelier(v, best)) best = v;
            return best;
        }
        for (long v = 0; v < V; ++v) {
            const double score = logits[v] * law.coldness;
            p[v] = law.is_exp ? std::exp(std::min(score, 700.0)) : score;
        }
        const double most = *std::max_element(p.begin(), p.end());
        for (double& value : p) value = std::exp(value - most);
        if (law.top_k || law.top_p < 1) {
            std::iota(order.begin(), order.end(), 0);
            std::stable_sort(order.begin(), order.end(), likelier);
            long kept = law.top_k ? std::min(law.top_k, V) : V;
            double goal = 0, sum = 0;
            for (long rank = 0; rank < kept; ++rank) goal += p[order[rank]] * law.top_p;
            for (long rank = 0; law.top_p < 1 && rank < kept; ++rank) {
                sum += p[order[rank]];
                if (sum >= goal) kept = rank + 1;  // which ends the loop
            }
            for (long rank = kept; rank < V; ++rank) p[order[rank]] = 0;
        }
        const double goal = uniform * std::accumulate(p.begin(), p.end(), 0.0);
        double sum = 0;
        for (int v = 0; v < V; ++v) {
            sum += p[v];
            if (sum >= goal) return v;
        }
        return V - 1;
    }

   private:
    const Law& law;
    std::vector<double> p;
    std::vector<int> order;  // the ids, the likeliest first
};
