// vit.h for C++17: values that free themselves, containers, exceptions. Header only.
//
//     vit::Model model("google/vit-base-patch16-224");
//     std::vector<float> pixels = model.preprocess(file);
//     std::vector<float> logits = model.forward("logits", pixels);
#ifndef VIT_HPP
#define VIT_HPP

#include "vit.h"

#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace vit {

// What a call returned, and its message.
class Error : public std::runtime_error {
public:
    explicit Error(const vit_error &error) : std::runtime_error(error.message), status(error.status) {}
    vit_status status;
};

namespace detail {
inline void check(vit_status status, const vit_error &error) {
    if (status != VIT_OK) throw Error(error);
}
} // namespace detail

// Aligned memory that a forward pass works in.
class Arena {
public:
    explicit Arena(std::size_t bytes)
        : size_(bytes), memory_(::operator new(bytes, std::align_val_t{VIT_ALIGN})) {}
    void *data() { return memory_.get(); }
    std::size_t size() const { return size_; }

private:
    struct Free {
        void operator()(void *memory) const { ::operator delete(memory, std::align_val_t{VIT_ALIGN}); }
    };
    std::size_t size_;
    std::unique_ptr<void, Free> memory_;
};

// An opened model. Any number of threads may use one.
class Model {
public:
    explicit Model(const std::string &path, const vit_options &options = {}) {
        vit_error error;
        vit_model *model;
        detail::check(vit_model_open(path.c_str(), &options, &model, &error), error);
        model_.reset(model);
    }

    // A packed file in memory.
    Model(const void *packed, std::size_t len, const vit_options &options = {}) {
        vit_error error;
        vit_model *model;
        detail::check(vit_model_open_bytes(packed, len, &options, &model, &error), error);
        model_.reset(model);
    }

    vit_info info() const {
        vit_error error;
        vit_info info;
        detail::check(vit_model_info(get(), &info, &error), error);
        return info;
    }

    // The name of a class; empty if it has none.
    std::string label(std::size_t index) const {
        const char *label = vit_model_label(get(), index);
        return label ? label : "";
    }

    // A budget of 0 bytes picks the fastest blocks.
    vit_plan plan(const std::string &output, std::size_t batch = 1, std::size_t budget = 0) const {
        vit_error error;
        vit_plan plan;
        detail::check(vit_model_plan(get(), output.c_str(), batch, budget, &plan, &error), error);
        return plan;
    }

    // A picture file in memory as the pixels of one image.
    std::vector<float> preprocess(const void *file, std::size_t len) const {
        vit_error error;
        const vit_info of = info();
        std::vector<float> pixels(of.channels * of.height * of.width);
        detail::check(vit_model_preprocess(get(), file, len, pixels.data(), pixels.size(), &error), error);
        return pixels;
    }

    // For a plan and an arena that are used again.
    void forward(const vit_plan &plan, const std::vector<float> &pixels, Arena &arena, std::vector<float> &output) const {
        vit_error error;
        output.resize(plan.output_len);
        detail::check(vit_model_forward(get(), &plan, pixels.data(), pixels.size(), arena.data(), arena.size(),
                                        output.data(), output.size(), &error),
                      error);
    }

    // For once.
    std::vector<float> forward(const std::string &output, const std::vector<float> &pixels, std::size_t batch = 1) const {
        const vit_plan planned = plan(output, batch);
        Arena arena(planned.arena_bytes);
        std::vector<float> result;
        forward(planned, pixels, arena, result);
        return result;
    }

    const vit_model *get() const { return model_.get(); }

private:
    struct Close {
        void operator()(vit_model *model) const { vit_model_close(model); }
    };
    std::unique_ptr<vit_model, Close> model_;
};

} // namespace vit

#endif // VIT_HPP
