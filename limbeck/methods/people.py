"""Who wrote the papers, in full, as a bibliography needs it."""

from __future__ import annotations

__all__ = ["PEOPLE"]

# By the key of the entry. A test compares the family names with those that the methods cite.
PEOPLE = {
    "agarwal2024policy": (
        "Agarwal, Rishabh and Vieillard, Nino and Zhou, Yongchao and Stanczyk, Piotr and "
        "Ramos, Sabela and Geist, Matthieu and Bachem, Olivier"
    ),
    "ahn2019variational": (
        "Ahn, Sungsoo and Hu, Shell Xu and Damianou, Andreas and Lawrence, Neil D. and Dai, Zhenwen"
    ),
    "ba2014do": "Ba, Lei Jimmy and Caruana, Rich",
    "boizard2024towards": (
        "Boizard, Nicolas and El Haddad, Kevin and Hudelot, Céline and Colombo, Pierre"
    ),
    "cao2007learning": "Cao, Zhe and Qin, Tao and Liu, Tie-Yan and Tsai, Ming-Feng and Li, Hang",
    "chang2023detrdistill": (
        "Chang, Jiahao and Wang, Shuo and Xu, Hai-Ming and Chen, Zehui and Yang, Chenhongyi and "
        "Zhao, Feng"
    ),
    "chen2021cross": (
        "Chen, Defang and Mei, Jian-Ping and Zhang, Yuan and Wang, Can and Wang, Zhe and Feng, Yan "
        "and Chen, Chun"
    ),
    "chen2021distilling": "Chen, Pengguang and Liu, Shu and Zhao, Hengshuang and Jia, Jiaya",
    "chen2022knowledge": (
        "Chen, Defang and Mei, Jian-Ping and Zhang, Hailin and Wang, Can and Feng, Yan and "
        "Chen, Chun"
    ),
    "gu2023minillm": "Gu, Yuxian and Dong, Li and Wei, Furu and Huang, Minlie",
    "guo2020reducing": (
        "Guo, Jia and Chen, Minghao and Hu, Yao and Zhu, Chen and He, Xiaofei and Cai, Deng"
    ),
    "guo2023class": "Guo, Ziyao and Yan, Haonan and Li, Hui and Lin, Xiaodong",
    "hao2023one": (
        "Hao, Zhiwei and Guo, Jianyuan and Han, Kai and Tang, Yehui and Hu, Han and Wang, Yunhe "
        "and Xu, Chang"
    ),
    "heo2019comprehensive": (
        "Heo, Byeongho and Kim, Jeesoo and Yun, Sangdoo and Park, Hyojin and Kwak, Nojun and "
        "Choi, Jin Young"
    ),
    "heo2019knowledge": "Heo, Byeongho and Lee, Minsik and Yun, Sangdoo and Choi, Jin Young",
    "hilmes2025analyzing": "Hilmes, Benedikt and Rossenbach, Nick and Schlüter, Ralf",
    "hinton2015distilling": "Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff",
    "hofstatter2020improving": (
        "Hofstätter, Sebastian and Althammer, Sophia and Schröder, Michael and Sertkan, Mete and "
        "Hanbury, Allan"
    ),
    "huang2017like": "Huang, Zehao and Wang, Naiyan",
    "huang2022knowledge": ("Huang, Tao and You, Shan and Wang, Fei and Qian, Chen and Xu, Chang"),
    "ji2021show": "Ji, Mingi and Heo, Byeongho and Park, Sungrae",
    "jiao2020tinybert": (
        "Jiao, Xiaoqi and Yin, Yichun and Shang, Lifeng and Jiang, Xin and Chen, Xiao and "
        "Li, Linlin and Wang, Fang and Liu, Qun"
    ),
    "jin2023multi": "Jin, Ying and Wang, Jiaqi and Lin, Dahua",
    "kang2020de": "Kang, SeongKu and Hwang, Junyoung and Kweon, Wonbin and Yu, Hwanjo",
    "kendall2018multi": "Kendall, Alex and Gal, Yarin and Cipolla, Roberto",
    "kim2016sequence": "Kim, Yoon and Rush, Alexander M.",
    "kim2018paraphrasing": "Kim, Jangho and Park, SeongUk and Kwak, Nojun",
    "kim2021comparing": (
        "Kim, Taehyeon and Oh, Jaehoon and Kim, Nak Yil and Cho, Sangwook and Yun, Se-Young"
    ),
    "ko2024distillm": "Ko, Jongwoo and Kim, Sungnyun and Chen, Tianyi and Yun, Se-Young",
    "kornblith2019similarity": (
        "Kornblith, Simon and Norouzi, Mohammad and Lee, Honglak and Hinton, Geoffrey"
    ),
    "lee2013pseudo": "Lee, Dong-Hyun",
    "li2020blockwisely": (
        "Li, Changlin and Peng, Jiefeng and Yuan, Liuchun and Wang, Guangrun and Liang, Xiaodan "
        "and Lin, Liang and Chang, Xiaojun"
    ),
    "li2023curriculum": (
        "Li, Zheng and Li, Xiang and Yang, Lingfeng and Zhao, Borui and Song, Renjie and Luo, Lei "
        "and Li, Jun and Yang, Jian"
    ),
    "liu2019structured": (
        "Liu, Yifan and Chen, Ke and Liu, Chris and Qin, Zengchang and Luo, Zhenbo and "
        "Wang, Jingdong"
    ),
    "liu2021exploring": (
        "Liu, Li and Huang, Qingle and Lin, Sihao and Xie, Hongwei and Wang, Bing and "
        "Chang, Xiaojun and Liang, Xiaodan"
    ),
    "park2019relational": "Park, Wonpyo and Kim, Dongju and Lu, Yan and Cho, Minsu",
    "passalis2018learning": "Passalis, Nikolaos and Tefas, Anastasios",
    "peng2019correlation": (
        "Peng, Baoyun and Jin, Xiao and Liu, Jiaheng and Zhou, Shunfeng and Wu, Yichao and Liu, Yu "
        "and Li, Dongsheng and Zhang, Zhaoning"
    ),
    "romero2015fitnets": (
        "Romero, Adriana and Ballas, Nicolas and Kahou, Samira Ebrahimi and Chassang, Antoine and "
        "Gatta, Carlo and Bengio, Yoshua"
    ),
    "rusu2016policy": (
        "Rusu, Andrei A. and Colmenarejo, Sergio Gomez and Gulcehre, Caglar and "
        "Desjardins, Guillaume and Kirkpatrick, James and Pascanu, Razvan and Mnih, Volodymyr and "
        "Kavukcuoglu, Koray and Hadsell, Raia"
    ),
    "sanh2019distilbert": (
        "Sanh, Victor and Debut, Lysandre and Chaumond, Julien and Wolf, Thomas"
    ),
    "shu2021channel": (
        "Shu, Changyong and Liu, Yifan and Gao, Jianfei and Yan, Zheng and Shen, Chunhua"
    ),
    "snell2017prototypical": "Snell, Jake and Swersky, Kevin and Zemel, Richard",
    "sun2019patient": "Sun, Siqi and Cheng, Yu and Gan, Zhe and Liu, Jingjing",
    "sun2024logit": (
        "Sun, Shangquan and Ren, Wenqi and Li, Jingzhi and Wang, Rui and Cao, Xiaochun"
    ),
    "takashima2018investigation": "Takashima, Ryoichi and Li, Sheng and Kawai, Hisashi",
    "tang2018ranking": "Tang, Jiaxi and Wang, Ke",
    "tian2020contrastive": "Tian, Yonglong and Krishnan, Dilip and Isola, Phillip",
    "tung2019similarity": "Tung, Frederick and Mori, Greg",
    "wang2021minilmv2": (
        "Wang, Wenhui and Bao, Hangbo and Huang, Shaohan and Dong, Li and Wei, Furu"
    ),
    "wen2023f": "Wen, Yuqiao and Li, Zichao and Du, Wenyu and Mou, Lili",
    "wu2023tinyclip": (
        "Wu, Kan and Peng, Houwen and Zhou, Zhenghong and Xiao, Bin and Liu, Mengchen and Yuan, Lu "
        "and Xuan, Hong and Valenzuela, Michael and Chen, Xi (Stephen) and Wang, Xinggang and "
        "Chao, Hongyang and Hu, Han"
    ),
    "xu2020knowledge": "Xu, Guodong and Liu, Ziwei and Li, Xiaoxiao and Loy, Chen Change",
    "yang2021knowledge": (
        "Yang, Jing and Martinez, Brais and Bulat, Adrian and Tzimiropoulos, Georgios"
    ),
    "yang2022focal": (
        "Yang, Zhendong and Li, Zhe and Jiang, Xiaohu and Gong, Yuan and Yuan, Zehuan and "
        "Zhao, Danpei and Yuan, Chun"
    ),
    "yang2022masked": (
        "Yang, Zhendong and Li, Zhe and Shao, Mingqi and Shi, Dachuan and Yuan, Zehuan and "
        "Yuan, Chun"
    ),
    "yang2023from": "Yang, Zhendong and Zeng, Ailing and Yuan, Chun and Li, Yu",
    "yang2023multi": (
        "Yang, Penghui and Xie, Ming-Kun and Zong, Chen-Chen and Feng, Lei and Niu, Gang and "
        "Sugiyama, Masashi and Huang, Sheng-Jun"
    ),
    "yang2024clip": (
        "Yang, Chuanguang and An, Zhulin and Huang, Libo and Bi, Junyu and Yu, Xinqiang and "
        "Yang, Han and Diao, Boyu and Xu, Yongjun"
    ),
    "yim2017gift": "Yim, Junho and Joo, Donggyu and Bae, Jihoon and Kim, Junmo",
    "yuan2020revisiting": (
        "Yuan, Li and Tay, Francis E. H. and Li, Guilin and Wang, Tao and Feng, Jiashi"
    ),
    "zagoruyko2017paying": "Zagoruyko, Sergey and Komodakis, Nikos",
    "zhang2022confidence": "Zhang, Hailin and Chen, Defang and Wang, Can",
    "zhang2023freekd": (
        "Zhang, Yuan and Huang, Tao and Liu, Jiaming and Jiang, Tao and Cheng, Kuan and "
        "Zhang, Shanghang"
    ),
    "zhao2022decoupled": (
        "Zhao, Borui and Cui, Quan and Song, Renjie and Qiu, Yiyu and Liang, Jiajun"
    ),
    "zheng2022localization": (
        "Zheng, Zhaohui and Ye, Rongguang and Wang, Ping and Ren, Dongwei and Zuo, Wangmeng and "
        "Hou, Qibin and Cheng, Ming-Ming"
    ),
    "zheng2024knowledge": "Zheng, Kaixiang and Yang, En-Hui",
    "zhou2021rethinking": (
        "Zhou, Helong and Song, Liangchen and Chen, Jiajie and Zhou, Ye and Wang, Guoli and "
        "Yuan, Junsong and Zhang, Qian"
    ),
}
