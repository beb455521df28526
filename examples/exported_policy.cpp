// Acts with an exported policy in C++17, with the headers and the library of ONNX Runtime:
//
//     g++ -std=c++17 exported_policy.cpp -I<onnxruntime>/include -L<onnxruntime>/lib -lonnxruntime -o act
//     ./act policy.onnx < rows.txt
//
// A row is the numbers of one observation, by the columns of the JSON beside the policy, and behind them, where the
// policy takes masks, a 1 or 0 for each choice, in the shape of `action_mask`. Prints the outputs of each row.
// Elsewhere copy the class.

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <functional>
#include <iostream>
#include <map>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

class ExportedPolicy {
 public:
  explicit ExportedPolicy(const std::string& path) : session_(env_, path.c_str(), Ort::SessionOptions{}) {
    Ort::AllocatorWithDefaultOptions allocator;
    for (size_t i = 0; i < session_.GetInputCount(); ++i) {
      std::string name = session_.GetInputNameAllocated(i, allocator).get();
      auto shape = session_.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape();
      shape[0] = 1;
      if (name != "observation" && name != "action_mask" && name != "state")
        throw std::runtime_error("the input " + name + " is not handled here");
      shapes_[name] = shape;
    }
    for (size_t i = 0; i < session_.GetOutputCount(); ++i)
      outputs_.push_back(session_.GetOutputNameAllocated(i, allocator).get());
    reset();
  }

  // How many numbers an input has; 0 for one that the policy does not take.
  size_t size(const std::string& input) const {
    auto found = shapes_.find(input);
    if (found == shapes_.end()) return 0;
    return std::accumulate(found->second.begin(), found->second.end(), int64_t{1}, std::multiplies<int64_t>());
  }

  // Forget the episode so far: before each one, for a policy with a memory.
  void reset() { state_.assign(size("state"), 0.0f); }

  // The values of each output, by its name in the JSON. mask: one byte for each choice, true for a valid one.
  std::map<std::string, std::vector<double>> act(std::vector<float> observation, std::vector<uint8_t> mask = {}) {
    if (observation.size() != size("observation") || mask.size() != size("action_mask"))
      throw std::invalid_argument("must have " + std::to_string(size("observation")) + " numbers and " +
                                  std::to_string(size("action_mask")) + " of the mask");
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<const char*> names, wanted;
    std::vector<Ort::Value> inputs;
    for (auto& [name, shape] : shapes_) {
      names.push_back(name.c_str());
      if (name == "action_mask") {
        inputs.push_back(Ort::Value::CreateTensor<bool>(memory, reinterpret_cast<bool*>(mask.data()), mask.size(),
                                                        shape.data(), shape.size()));
      } else {
        auto& data = name == "state" ? state_ : observation;
        inputs.push_back(
            Ort::Value::CreateTensor<float>(memory, data.data(), data.size(), shape.data(), shape.size()));
      }
    }
    for (auto& name : outputs_) wanted.push_back(name.c_str());
    auto found = session_.Run(Ort::RunOptions{}, names.data(), inputs.data(), inputs.size(), wanted.data(),
                              wanted.size());
    std::map<std::string, std::vector<double>> action;
    for (size_t i = 0; i < found.size(); ++i) {
      auto values = numbers(found[i]);
      if (outputs_[i] == "next_state")
        state_.assign(values.begin(), values.end());
      else
        action[outputs_[i]] = values;
    }
    return action;
  }

 private:
  template <typename T>
  static std::vector<double> as(const Ort::Value& value) {
    const T* data = value.GetTensorData<T>();
    return {data, data + value.GetTensorTypeAndShapeInfo().GetElementCount()};
  }

  static std::vector<double> numbers(const Ort::Value& value) {
    switch (value.GetTensorTypeAndShapeInfo().GetElementType()) {
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return as<float>(value);
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE: return as<double>(value);
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return as<int64_t>(value);
      default: throw std::runtime_error("an output is neither float, double nor int64");
    }
  }

  Ort::Env env_;
  Ort::Session session_;
  std::map<std::string, std::vector<int64_t>> shapes_;
  std::vector<std::string> outputs_;
  std::vector<float> state_;
};

int main(int argc, char** argv) try {
  if (argc != 2) throw std::invalid_argument("usage: act POLICY < ROWS");
  ExportedPolicy policy(argv[1]);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream row(line);
    std::vector<float> given{std::istream_iterator<float>(row), {}};
    auto behind = given.begin() + std::min(given.size(), policy.size("observation"));
    std::cout.precision(9);
    for (auto& [name, values] : policy.act({given.begin(), behind}, {behind, given.end()})) {
      std::cout << name;
      for (double value : values) std::cout << ' ' << value;
      std::cout << '\n';
    }
    std::cout << '\n';
  }
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
