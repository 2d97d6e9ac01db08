// Cosines between the first picture and all: embed MODEL PICTURE...
//
//     c++ -std=c++17 embed.cpp $(pkg-config --cflags --libs vit) -o embed
#include <vit.hpp>

#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <numeric>

static std::vector<char> read(const char *path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

static double dot(const std::vector<float> &a, const std::vector<float> &b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: embed MODEL PICTURE...\n");
        return 2;
    }
    const char *what = argv[1];
    try {
        const vit::Model model(what);
        const vit_plan plan = model.plan("embedding");
        vit::Arena arena(plan.arena_bytes);
        std::vector<float> first, embedding;
        for (int i = 2; i < argc; i++) {
            what = argv[i];
            const std::vector<char> file = read(what);
            model.forward(plan, model.preprocess(file.data(), file.size()), arena, embedding);
            if (i == 2) first = embedding;
            const double norms = std::sqrt(dot(first, first) * dot(embedding, embedding));
            std::printf("%s: %.4f\n", what, dot(first, embedding) / norms);
        }
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s: %s\n", what, error.what());
        return 1;
    }
}
