// Runs a package of AOTInductor on maps of float32, without Python:
//
//     ./main model.pt2 2 3 32 32 <input >output
//
// Not <torch/torch.h>, which takes many times as long to compile.
#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <iostream>

int main(int argc, char** argv) {
  std::vector<int64_t> shape;
  for (int i = 2; i < argc; ++i) shape.push_back(std::stoll(argv[i]));
  at::Tensor x = at::empty(shape);
  std::cin.read(reinterpret_cast<char*>(x.data_ptr<float>()), x.nbytes());

  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  std::vector<at::Tensor> inputs{x};
  at::Tensor y = model.run(inputs)[0].contiguous();
  std::cout.write(reinterpret_cast<const char*>(y.data_ptr<float>()), y.nbytes());
}
